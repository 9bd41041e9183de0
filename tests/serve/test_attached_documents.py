"""Documents that are attached to an alias: set once, passages added to each question, cited in each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from hone.errors import ConfigError, DataError
from hone.serve.asked import AddPassages, Passages
from hone.serve.passages import attached_documents
from hone.types import Message
from tests.serve.conftest import settings_of

QUESTION = (Message("user", "How long is the warranty of a lamp?"),)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "warranty.md").write_text(
        "# Warranty\n\nThe warranty of a lamp lasts seven years.\n\n# Repair\n\nA bench mends lamps.\n",
        encoding="utf-8",
    )
    (folder / "opening.md").write_text("# Opening\n\nThe desk is open from nine to five.\n", encoding="utf-8")
    return folder


def attached(home: Path, documents: Path, name: str = "small") -> AddPassages:
    return attached_documents(settings_of(home, documents={name: documents}))[name]


def test_the_best_passages_stand_before_the_question_and_are_cited(hone_home: Path, documents: Path) -> None:
    found = attached(hone_home, documents)(QUESTION, lambda messages: True)
    assert isinstance(found, Passages)
    first = found.citations[0]
    assert (first["number"], first["source"], first["heading"]) == (1, "warranty.md", "Warranty")
    assert "seven years" in first["text"]
    (asked,) = found.messages
    assert "[1] warranty.md, Warranty: " in asked.content
    assert asked.content.endswith(QUESTION[0].content)


def test_passages_that_leave_no_room_for_the_answer_are_left_out(hone_home: Path, documents: Path) -> None:
    add = attached(hone_home, documents)
    whole = add(QUESTION, lambda messages: True)
    assert len(whole.citations) > 1

    def one_passage(messages: Sequence[Message]) -> bool:
        return "[2]" not in messages[-1].content

    assert add(QUESTION, one_passage).citations == whole.citations[:1]
    nothing = add(QUESTION, lambda messages: False)
    assert (nothing.messages, nothing.citations) == (QUESTION, ())


def test_what_cannot_be_attached_is_refused_at_the_start(hone_home: Path, documents: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="support@production"):
        attached(hone_home, documents, "support@production")
    with pytest.raises((ConfigError, DataError), match="gone"):
        attached(hone_home, tmp_path / "gone")


def test_an_alias_answers_with_them_and_other_names_without(hone_home: Path, documents: Path) -> None:
    from hone.serve.answering import answering
    from hone.serve.asked import ResolvedModel
    from hone.serve.inference import InferenceService
    from hone.serve.metrics import Metrics

    settings = settings_of(hone_home, bases={"small": "/no/base", "other": "/no/base"}, documents={"small": documents})
    resolved: list[ResolvedModel] = []

    class Service(InferenceService):
        async def ready(self, found: ResolvedModel) -> None:  # type: ignore[override]
            resolved.append(found)
            raise ConfigError("no model here")

    answers = answering(settings, Service(hone_home), metrics=Metrics(), lenient=False)
    for name in ("small", "other"):
        with pytest.raises(ConfigError):
            asyncio.run(_ask(answers.answer_chat, name))
    assert [found.name for found in resolved] == ["small", "other"]
    assert resolved[0].add_passages is not None
    assert resolved[1].add_passages is None


async def _ask(answer: object, name: str) -> None:
    from anyio import to_thread

    await to_thread.run_sync(lambda: answer(name, [{"role": "user", "content": "?"}], {}))  # type: ignore[operator]
