"""Answers as objects of the wire: completions, their chunks, log-probabilities and usage.

Source: the OpenAI API reference, chat completions and completions.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hone.model.rows import RowToken
from hone.serve.asked import GenerationRequest, ReadyModel, TokenEvent
from hone.serve.completion_logprobs import CompletionLogprobs, readable_token
from hone.types import JsonDict

__all__ = ["AnswerSet", "Heading", "done_line", "event_line"]

Kind = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Heading:
    """What all chunks of an answer begin with.

    Args:
        kind: which of the two routes.
        id: of the completion.
        created: seconds since 1970.
        model: as the client named it.
        fingerprint: what answered: a version's name, or of a folder the hash of it.
    """

    kind: Kind
    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, kind: Kind, model: ReadyModel) -> Heading:
        """For an answer that begins now."""
        reference = model.resolved.reference
        if "/" in reference or "\\" in reference:  # a folder of this machine is nobody's business
            reference = "folder-" + hashlib.sha256(reference.encode()).hexdigest()[:12]
        prefix = "chatcmpl-" if kind == "chat" else "cmpl-"
        return cls(kind, prefix + secrets.token_hex(12), int(time.time()), model.resolved.name, reference)

    def object(self, choices: list[JsonDict], *, chunk: bool) -> JsonDict:
        """The answer, or a piece of it.

        Args:
            choices: as the route has them.
            chunk: whether it is a piece.
        """
        name = "text_completion" if self.kind == "text" else "chat.completion" + (".chunk" if chunk else "")
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


@dataclass(slots=True)
class _Choice:
    text: str = ""
    finish: str | None = None
    events: list[TokenEvent] = field(default_factory=list)
    logprobs: CompletionLogprobs | None = None
    told: int = 0  # tokens of ``logprobs`` that a stream has given out


class AnswerSet:
    """The answers of one request, as they come.

    Args:
        heading: of the completion.
        request: what was asked.
        citations: of the passages that were added.
        prefixes: for each prompt, the text that is given before its answers.
    """

    def __init__(
        self, heading: Heading, request: GenerationRequest, *, citations: Sequence[JsonDict] = (),
        prefixes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.heading = heading
        self.request = request
        self.citations = list(citations)
        self._prefixes = list(prefixes) or [""] * len(request.prompts)
        self._choices = [_Choice() for _ in range(request.count * len(request.prompts))]
        if heading.kind == "text" and request.top_logprobs is not None:
            for choice in self._choices:
                choice.logprobs = CompletionLogprobs(request.model.written_out)

    def add(self, event: TokenEvent) -> None:
        """Take an event in."""
        choice = self._choices[event.index]
        choice.text += event.text
        choice.finish = event.finish or choice.finish
        choice.events.append(event)
        if choice.logprobs is not None and event.token is not None:
            if self._scores_prompts and len(choice.events) == 1:
                self._add_prompt(choice.logprobs, event.index, event.token)
            # the token that ends an answer is no part of its text, and as likely or unlikely as any
            written = event.token.stop_id if event.token.token is None else event.token.token
            if written is not None:
                choice.logprobs.add(written, event.token.logprob, event.token.top)

    def _add_prompt(self, logprobs: CompletionLogprobs, index: int, first: RowToken) -> None:
        prompt, prefix = self.request.prompts[index // self.request.count], len(self._prefix(index))
        # the text of the client lacks what the tokenizer put before it
        logprobs.go_on_at(prefix - len(self.request.model.written_out(prompt)))
        logprobs.add(prompt[0], None)
        for token, score in zip(prompt[1:], first.prompt_scores, strict=True):
            logprobs.add(token, score.logprob, score.top)
        logprobs.go_on_at(prefix)

    @property
    def usage(self) -> JsonDict:
        """Tokens read and written; a prompt counts once, however many answers it has."""
        prompt = sum(map(len, self.request.prompts))
        written = sum(choice.events[-1].tokens for choice in self._choices if choice.events)
        first = self._choices[:: self.request.count]
        cached = sum(choice.events[0].cached_tokens for choice in first if choice.events)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def whole(self) -> JsonDict:
        """The completion as one object."""
        choices = []
        for index, choice in enumerate(self._choices):
            told: JsonDict = {"index": index, "finish_reason": choice.finish or "length"}
            told["logprobs"] = self._logprobs(choice, choice.events)
            if self.heading.kind == "text":
                told["text"] = self._prefix(index) + choice.text
            else:
                told["message"] = {"role": "assistant", "content": choice.text, "refusal": None, **self._cited()}
            choices.append(told)
        return {**self.heading.object(choices, chunk=False), "usage": self.usage}

    def openings(self) -> list[JsonDict]:
        """Pieces that come before the first token."""
        if self.heading.kind == "text":
            if self._scores_prompts:  # a prompt and how likely it is come in one piece, with the first token
                return []
            named = [(index, self._prefix(index)) for index in range(len(self._choices))]
            return [self._piece(index, text, None, None) for index, text in named if text]
        delta = {"role": "assistant", "content": "", "refusal": None, **self._cited()}
        return [
            self.heading.object(
                [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}], chunk=True
            )
            for index in range(len(self._choices))
        ]  # fmt: skip

    def piece(self, event: TokenEvent) -> JsonDict | None:
        """An event as a chunk; None where there is nothing to tell."""
        choice = self._choices[event.index]
        logprobs = self._logprobs(choice, [event], start=choice.told)
        choice.told = 0 if choice.logprobs is None else len(choice.logprobs)
        begins = self._scores_prompts and event is choice.events[0]
        text = (self._prefix(event.index) if begins else "") + event.text
        if not text and event.finish is None and logprobs is None:
            return None
        return self._piece(event.index, text, logprobs, event.finish)

    def usage_chunk(self) -> JsonDict:
        """The last chunk, where usage was asked for."""
        return {**self.heading.object([], chunk=True), "usage": self.usage}

    def _piece(self, index: int, text: str, logprobs: JsonDict | None, finish: str | None) -> JsonDict:
        told: JsonDict = {"index": index, "logprobs": logprobs, "finish_reason": finish}
        if self.heading.kind == "text":
            told["text"] = text
        else:
            told["delta"] = {"content": text} if text or finish is None else {}
        return self.heading.object([told], chunk=True)

    def _prefix(self, index: int) -> str:
        return self._prefixes[index // self.request.count]

    @property
    def _scores_prompts(self) -> bool:
        return self.request.prompt_logprobs is not None

    def _cited(self) -> JsonDict:
        return {"citations": self.citations} if self.citations else {}

    def _logprobs(self, choice: _Choice, events: Sequence[TokenEvent], start: int = 0) -> JsonDict | None:
        if choice.logprobs is not None:
            return choice.logprobs.object(start)
        if self.request.top_logprobs is None:
            return None
        tokens = [event.token for event in events if event.token is not None and event.token.token is not None]
        return {"content": [self._chat_logprob(token) for token in tokens], "refusal": None}

    def _chat_logprob(self, token: RowToken) -> JsonDict:
        assert token.token is not None
        assert token.logprob is not None
        top = [self._one_logprob(one, logprob) for one, logprob in token.top]
        return {**self._one_logprob(token.token, token.logprob), "top_logprobs": top}

    def _one_logprob(self, token: int, logprob: float) -> JsonDict:
        text = readable_token(token, self.request.model.renderer.token_text(token))
        known = None if text == f"token_id:{token}" else list(text.encode(errors="replace"))
        return {"token": text, "logprob": logprob, "bytes": known}


def event_line(content: JsonDict) -> bytes:
    """One server-sent event."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return b"data: " + text.encode(errors="backslashreplace") + b"\n\n"


def done_line() -> bytes:
    """The end of a stream."""
    return b"data: [DONE]\n\n"
