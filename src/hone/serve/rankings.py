"""``/v1/hone/rankings``: sessions of answers that people compare, what a rater sees next, and what was said.

A rater's page needs ``next``, ``votes`` and ``undo`` alone; none of these says who wrote an answer.
The other routes do.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from hone.data.compared import prompt_turns
from hone.errors import ConfigError, VersionError
from hone.recipe.rank import report_of
from hone.recipe.ranking_exchange import ExchangeFormat, exported_text
from hone.registry.rankings import (
    NewAnswer,
    NewItem,
    RankingSession,
    create_session,
    find_session,
    find_session_of,
    list_sessions,
)
from hone.registry.votes import (
    LONGEST_RATER,
    ShownItem,
    Vote,
    cast_vote,
    list_votes,
    next_item,
    ranked_session,
    undo_vote,
)
from hone.serve.settings import ServerSettings
from hone.serve.wire import ERROR_RESPONSES, After, ApiError, Limit, list_page, page_after
from hone.types import JsonDict

__all__ = ["GivenAnswer", "GivenItem", "RankingCreation", "RankingUndo", "RankingVote", "rankings_router"]

_STRICT = ConfigDict(extra="forbid")
_Rater = Annotated[str, Field(min_length=1, max_length=LONGEST_RATER, description="Who compares.")]
_RaterQuery = Annotated[str, Query(min_length=1, max_length=LONGEST_RATER, description="Who compares.")]


class GivenAnswer(BaseModel):
    """An answer to be compared."""

    model_config = _STRICT

    text: Annotated[str, Field(description="The answer.")]
    contender: Annotated[str, Field(min_length=1, description="Who wrote it; never shown to raters.")]
    metadata: Annotated[dict[str, Any], Field(default_factory=dict, description="Kept beside it.")]


class GivenItem(BaseModel):
    """A prompt with its answers."""

    model_config = _STRICT

    prompt: Annotated[str | list[dict[str, Any]], Field(description="A text, or turns as chat completions have them.")]
    answers: Annotated[list[GivenAnswer], Field(min_length=2, max_length=9)]


class RankingCreation(BaseModel):
    """The body of ``POST /v1/hone/rankings``."""

    model_config = _STRICT

    version: Annotated[str, Field(min_length=1, description="Whose answers are in question: one of the contenders.")]
    items: Annotated[list[GivenItem], Field(min_length=1, max_length=10_000)]
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Of the orders in which things are shown.")] = 0


class RankingVote(BaseModel):
    """The body of ``POST /v1/hone/rankings/{session_id}/votes``."""

    model_config = _STRICT

    rater: _Rater
    item: Annotated[str, Field(description="The id of the prompt, as `next` gave it.")]
    ranks: Annotated[
        list[Annotated[int, Field(ge=1, le=99)]] | None,
        Field(description="A rank for each answer in the order of `next`, 1 the best, equal for ties; null skips."),
    ]
    seconds: Annotated[float | None, Field(ge=0, description="From showing to the vote.")] = None
    utc_offset_minutes: Annotated[int | None, Field(ge=-1440, le=1440, description="Of the rater's clock.")] = None


class RankingUndo(BaseModel):
    """The body of ``POST /v1/hone/rankings/{session_id}/undo``."""

    model_config = _STRICT

    rater: _Rater


def rankings_router(settings: ServerSettings) -> APIRouter:
    """The routes of rankings."""
    router = APIRouter(prefix="/v1/hone/rankings", tags=["rankings"], responses=ERROR_RESPONSES)
    _add_sessions(router, settings)
    _add_rating(router, settings)
    _add_findings(router, settings)
    return router


def _add_sessions(router: APIRouter, settings: ServerSettings) -> None:
    home = settings.home

    @router.get("")
    def list_rankings(version: str | None = None, after: After = None, limit: Limit = 100) -> JsonDict:
        """List sessions, newest first."""
        rows = list_sessions(home, version=version)[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=settings.cursors)
        return list_page([_session_object(settings, one) for one in page], has_more=has_more)

    @router.post("")
    def create_ranking(asked: RankingCreation) -> JsonDict:
        """Make a session of given answers; the same request gives the same session."""
        spec = {"requested": asked.model_dump(mode="json")}
        known = find_session_of(home, spec)
        if known is None:
            contenders = list(dict.fromkeys(one.contender for item in asked.items for one in item.answers))
            if asked.version not in contenders:
                raise ApiError(f"{asked.version} is no contender: none of the answers is its own", param="version")
            names = [asked.version, *(one for one in contenders if one != asked.version)]
            items = [
                NewItem(
                    prompt_turns(item.prompt, f"items[{place}].prompt"),
                    [NewAnswer(one.text, one.contender, one.metadata) for one in item.answers],
                )
                for place, item in enumerate(asked.items)
            ]
            known = create_session(home, asked.version, names, items, spec=spec, seed=asked.seed)
        return _session_object(settings, known)

    @router.get("/{session_id}")
    def retrieve_ranking(session_id: str) -> JsonDict:
        """Show a session: who answers, and how far each rater is."""
        return _session_object(settings, _require(settings, session_id))


def _add_rating(router: APIRouter, settings: ServerSettings) -> None:
    home = settings.home

    @router.get("/{session_id}/next")
    def next_to_rank(session_id: str, rater: _RaterQuery) -> JsonDict:
        """What this rater is to compare next, without names; `item` is null where all is done."""
        _require(settings, session_id)
        return _shown_object(next_item(home, session_id, rater))

    @router.post("/{session_id}/votes")
    def vote(session_id: str, asked: RankingVote) -> JsonDict:
        """Keep what a rater says of a prompt's answers."""
        _require(settings, session_id)
        try:
            cast = cast_vote(
                home, session_id, asked.item, asked.rater, asked.ranks,
                seconds=asked.seconds, utc_offset_minutes=asked.utc_offset_minutes,
            )  # fmt: skip
        except ConfigError as error:
            raise ApiError(
                f"{error.what}. {error.remedy}" if error.remedy else error.what, param=error.where
            ) from error
        return _vote_object(cast)

    @router.post("/{session_id}/undo")
    def undo(session_id: str, asked: RankingUndo) -> JsonDict:
        """Take back this rater's last vote; its prompt is the next again."""
        _require(settings, session_id)
        undone = undo_vote(home, session_id, asked.rater)
        if undone is None:
            raise ApiError(f"{asked.rater} has no vote to take back", param="rater", code="nothing_to_undo")
        return _vote_object(undone)


def _add_findings(router: APIRouter, settings: ServerSettings) -> None:
    home = settings.home

    @router.get("/{session_id}/votes")
    def list_ranking_votes(session_id: str, after: After = None, limit: Limit = 1000) -> JsonDict:
        """List votes, oldest first; those too that were taken back."""
        _require(settings, session_id)
        page, has_more = page_after(list_votes(home, session_id, undone=True), after=after, limit=limit)
        return list_page([_vote_object(one) for one in page], has_more=has_more)

    @router.get("/{session_id}/results")
    def ranking_results(session_id: str) -> JsonDict:
        """What the votes say: who wins blind, strengths, agreement, length; with intervals."""
        session = _require(settings, session_id)
        report = report_of(home, [session]).to_json()
        return {"id": session.id, "object": "hone.ranking.results", "version": session.version, **report}

    @router.get("/{session_id}/export", response_class=Response)
    def export_ranking(
        session_id: str,
        form: Annotated[ExchangeFormat, Query(alias="format", description="Rows to train on, or another tool's.")],
        each_vote: Annotated[bool, Query(description="Of hone: a row for each rater's vote.")] = False,
        votes: Annotated[bool, Query(description="Of the others: whether votes go with the answers.")] = True,
    ) -> Response:
        """The session as a file."""
        _require(settings, session_id)
        ranked = [ranked_session(home, session_id)]
        text, _ = exported_text(ranked, form, each_vote=each_vote, with_votes=votes)
        media: Literal["application/jsonl", "application/json"]
        media = "application/jsonl" if form == "hone" else "application/json"
        return Response(text.encode(), media_type=media)


def _require(settings: ServerSettings, session_id: str) -> RankingSession:
    try:
        return find_session(settings.home, session_id)
    except VersionError as error:
        raise ApiError(f"No such rankings: {session_id}", status=404, param="session_id") from error


def _session_object(settings: ServerSettings, session: RankingSession) -> JsonDict:
    ranked = ranked_session(settings.home, session.id)
    raters: dict[str, int] = {}
    for vote in ranked.votes:
        raters[vote.rater] = raters.get(vote.rater, 0) + 1
    prompts = sum(len(item.candidates) > 1 for item in ranked.items)
    return {
        "id": session.id,
        "object": "hone.ranking",
        "created_at": session.created_at,
        "version": session.version,
        "contenders": session.contenders,
        "seed": session.seed,
        "prompts": prompts,
        "same_answers": len(ranked.items) - prompts,
        "raters": raters,
    }


def _shown_object(shown: ShownItem) -> JsonDict:
    """What a rater sees: texts in his order and ids drawn at random, and nothing else."""
    return {
        "object": "hone.ranking.item",
        "item": None if shown.item is None else shown.item.id,
        "prompt": None if shown.item is None else shown.item.prompt,
        "answers": [{"id": one.id, "text": one.text} for one in shown.answers],
        "done": shown.done,
        "total": shown.total,
    }


def _vote_object(vote: Vote) -> JsonDict:
    told = asdict(vote)
    del told["sequence"]
    return {"object": "hone.ranking.vote", **told}
