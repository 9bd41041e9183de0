"""Answering: a conversation with a version or a base, its text streamed as it is written.

``hone generate`` is one turn of it. Base and tuned share one model in memory and keep a history each, so that neither
reads what the other said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hone.config.chat import ChatConfig, GenerateConfig
from hone.errors import ConfigError, TemplateError
from hone.model.generate import SamplingSettings, generate, stream
from hone.model.lora import adapter_disabled
from hone.recipe.inference import Answerer, load_answerer, no_answers_of
from hone.types import ArmName, Message

__all__ = ["Answer", "Conversation", "open_conversation", "text_pieces"]

_UNFINISHED = "\ufffd"  # what decoding gives for bytes that do not make a character, or not yet


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in figures.

    Args:
        text: the whole answer.
        stopped: whether the model ended it by itself, not by the limit.
        prompt_tokens: length of what it read.
        tokens: length of what it wrote.
        seconds: wall-clock time.
    """

    text: str
    stopped: bool
    prompt_tokens: int
    tokens: int
    seconds: float


class Conversation:
    """Turns with one model, in one or two arms.

    Args:
        answerer: the loaded model.
        config: how tokens are chosen, and the system message.
    """

    def __init__(self, answerer: Answerer, config: ChatConfig) -> None:
        self._answerer = answerer
        self._config = config
        self._histories: dict[ArmName, list[Message]] = {}
        self._last: Answer | None = None
        shared = answerer.notes.get("system_prompt")
        self.system: str | None = shared if config.system is None else config.system or None
        self.system_is_from_training = bool(self.system) and config.system is None

    @property
    def name(self) -> str:
        """Who answers: ``support@3``, a run's folder, or the base's name."""
        return self._answerer.name

    @property
    def base_name(self) -> str:
        """The base, which is ``name`` itself where nothing is tuned."""
        return self._answerer.base.name

    @property
    def is_tuned(self) -> bool:
        """Whether there is a tuned arm beside the base."""
        return self._answerer.is_tuned

    @property
    def last(self) -> Answer:
        """The last answer that came to its end."""
        assert self._last is not None, "nothing was asked yet"
        return self._last

    def reset(self) -> None:
        """Forget what was said."""
        self._histories.clear()

    def ask(self, text: str, *, arm: ArmName) -> Generator[str, None, None]:
        """Answer one message, in pieces as they are written; a turn that is not read to its end is forgotten.

        Args:
            text: the user's message.
            arm: ``tuned`` or ``base``.

        Yields:
            Pieces of the answer, whole characters only.

        Raises:
            ConfigError: the conversation is longer than the model can read, or the text is no text.
            TemplateError: the message cannot be rendered, as where it holds control tokens.
        """
        history = self._histories.get(arm, [])
        user = Message("user", _checked(text))
        prompt = self._prompt([*self._opening(), *history, user], arm)
        settings = self._settings(len(prompt))
        started = time.perf_counter()
        ids: list[int] = []
        with self._switched(arm):
            tokens = stream(
                self._answerer.base.model, prompt, stop_ids=self._answerer.renderer_of(arm).stop_ids, settings=settings
            )
            yield from text_pieces(_kept(tokens, ids), self._answerer.text)
        stopped = len(ids) < settings.max_new_tokens
        seconds = time.perf_counter() - started
        self._last = Answer(self._answerer.text(ids), stopped, len(prompt), len(ids), round(seconds, 3))
        if self._last.text.strip():  # an empty turn could not be rendered again
            self._histories[arm] = [*history, user, Message("assistant", self._last.text.strip())]

    def draw(self, text: str, count: int, *, arm: ArmName) -> tuple[tuple[Message, ...], list[Answer]]:
        """Several answers to one message, each with draws of its own; nothing of it is remembered.

        Args:
            text: the user's message.
            count: how many.
            arm: ``tuned`` or ``base``.

        Returns:
            What was asked, with the system message, and the answers; ``seconds`` are those of all together.

        Raises:
            ConfigError, TemplateError: as :meth:`ask`.
        """
        asked = (*self._opening(), Message("user", _checked(text)))
        prompt = self._prompt(asked, arm)
        settings = self._settings(len(prompt))
        started = time.perf_counter()
        with self._switched(arm):
            drawn = generate(
                self._answerer.base.model,
                [prompt] * count,
                stop_ids=self._answerer.renderer_of(arm).stop_ids,
                settings=settings,
            )
        seconds = round(time.perf_counter() - started, 3)
        texts = [self._answerer.text(one.ids).strip() for one in drawn]
        return asked, [
            Answer(text, one.stopped, len(prompt), len(one.ids), seconds)
            for text, one in zip(texts, drawn, strict=True)
        ]

    def _opening(self) -> list[Message]:
        return [Message("system", _checked(self.system))] if self.system else []

    def _prompt(self, messages: Sequence[Message], arm: ArmName) -> tuple[int, ...]:
        try:
            return self._answerer.prompt(messages, arm=arm)
        except TemplateError as fault:
            raise _in_the_askers_words(fault, num_turns=len(messages)) from fault

    def _settings(self, prompt_tokens: int) -> SamplingSettings:
        config = self._config
        room = self._answerer.base.context_length - prompt_tokens
        if room < 1:
            raise ConfigError(
                f"the conversation has {prompt_tokens} tokens, and {self.base_name} can read "
                f"{self._answerer.base.context_length} together with its answer",
                remedy="begin anew (/reset in chat), or say less",
            )
        limit = min(config.max_new_tokens, room)
        return SamplingSettings(limit, temperature=config.temperature, top_p=config.top_p, seed=config.seed)

    def _switched(self, arm: ArmName) -> AbstractContextManager[None]:
        if arm == "base" and self.is_tuned:
            return adapter_disabled(self._answerer.base.model)
        return nullcontext()


def open_conversation(config: ChatConfig, *, home: Path, note: Callable[[str], None]) -> Conversation:
    """Load who answers.

    Args:
        config: who, and how.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        HoneError: there is no such version or base, or it is not what was registered.
        ConfigError: a reward model would have to write; ``hone generate --base`` asks its base alone.
    """
    answerer = load_answerer(config.model, home=home, device=config.device, dtype=config.dtype, note=note)
    base_alone = config.base and isinstance(config, GenerateConfig)  # in chat the version answers beside its base
    if answerer.scores_answers and not base_alone:
        raise no_answers_of(answerer.name)
    return Conversation(answerer, config)


def text_pieces(ids: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """Text of token ids as they come; together the pieces are ``decode`` of all ids.

    A token of a byte-level vocabulary may end within a character: what is not yet a character is held back.

    Args:
        ids: tokens.
        decode: text of a sequence of tokens.
    """
    seen: list[int] = []
    written = ""
    for token in ids:
        seen.append(token)
        settled = decode(seen).rstrip(_UNFINISHED)
        if len(settled) > len(written) and settled.startswith(written):
            yield settled[len(written) :]
            written = settled
    rest = decode(seen)[len(written) :] if seen else ""
    if rest:
        yield rest


def _kept(tokens: Iterable[int], into: list[int]) -> Iterator[int]:
    for token in tokens:
        into.append(token)
        yield token


def _checked(text: str) -> str:
    """``text`` itself, where it can be encoded; an argument of a command may hold bytes that are no characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the message is not UTF-8 (character {error.start + 1})") from error
    return text


def _in_the_askers_words(fault: TemplateError, *, num_turns: int) -> TemplateError:
    """The same fault without numbers of turns: whoever types a prompt counts neither the system message nor turns."""
    what = fault.what.replace(f"the user message (message {num_turns})", "the prompt")
    what = what.replace("the system message (message 1)", "the system message")
    return TemplateError(what, where=fault.where, why=fault.why, remedy=fault.remedy)
