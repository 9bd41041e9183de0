"""The one renderer of training, evaluation and serving: conversations to token ids and loss masks.

Masks come from the model's own chat template, by rendering prefixes: the text of ``messages[:i]`` with the generation
prompt must open the text of ``messages[:i + 1]``, and what follows is what the model is to write, up to and including
the token that ends its turn. No marker in the template is needed, and the prompt that generation uses is, id for id,
how the training row begins.

Where a template rewrites earlier turns (Qwen3 drops earlier reasoning, gpt-oss ends the last turn otherwise), a
conversation becomes several sequences, one for each supervised turn. Each supervised turn stands in exactly one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hone.data.conversation_checks import ControlCheck, LosslessCheck, check_turns, length_fault, prefix_fault
from hone.data.message_dicts import reasoning_apart
from hone.data.template import FIXED_DATE, ChatTemplate, ChatTokenizer
from hone.data.template_fallback import ensure_chat_template
from hone.data.template_probe import choose_settings, find_turn_ends, structure_texts
from hone.data.template_tokens import TemplateTokens
from hone.errors import TemplateError
from hone.types import Example, JsonDict, Message, TokenSequence

__all__ = ["Rendered", "Renderer", "ensure_chat_template", "has_reasoning"]

_Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as token sequences.

    Args:
        sequences: one, or one for each supervised turn; every supervised turn that fits stands in exactly one.
        cut_tokens: tokens left out because of the maximum length; 0 where the row is used whole.
    """

    sequences: tuple[TokenSequence, ...]
    cut_tokens: int


@dataclass(frozen=True, slots=True)
class _Turn:
    """One supervised turn after its prompt: ids up to its end, and the position where its completion begins."""

    ids: tuple[int, ...]
    start: int


def has_reasoning(examples: Iterable[Example]) -> bool:
    """Whether any supervised turn carries reasoning, so that the renderer should be made with ``thinking=True``."""
    supervised = (message for example in examples for message in example.messages if message.supervised)
    return any(reasoning_apart(message).reasoning is not None for message in supervised)


class Renderer:
    """Renders conversations with a tokenizer's chat template.

    The same tokenizer and arguments always give the same renderer; :attr:`template_hash` tells two apart.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        max_length: most tokens of a sequence; None for no limit.
        thinking: whether rows carry reasoning (see :func:`has_reasoning`). If not, templates of reasoning models are
            asked for a direct answer, in training and generation alike.
        extra_stop_ids: further tokens that end a turn, as those of the model's generation config.

    Raises:
        TemplateError: the template is missing, cannot render a plain question and answer, or has no generation prompt
            that fits its rows.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        max_length: int | None = None,
        thinking: bool = False,
        extra_stop_ids: Sequence[int] = (),
    ) -> None:
        self._template = ChatTemplate(tokenizer)
        self._tokens = TemplateTokens(tokenizer)
        self._max_length = max_length
        self._thinking = thinking
        self._bos: int | None = tokenizer.bos_token_id
        self._settings, self._calls_fault = choose_settings(self._template, thinking=thinking)
        self._ends = find_turn_ends(
            self._template, self._tokens, self._settings, eos=tokenizer.eos_token_id, extra=extra_stop_ids
        )
        self._stops = frozenset(self._ends.stops)
        structure = structure_texts(self._template, self._tokens, self._settings) | self._tokens.texts(self._stops)
        self._controls = ControlCheck(structure, self._tokens.special_texts())
        self._lossless = LosslessCheck(self._turn_texts, self._generation_text)
        self._hash = self._template.hash(self._settings)
        self._counts: Counter[str] = Counter()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant's turn; generation stops at any of them."""
        return self._ends.stops

    @property
    def template_hash(self) -> str:
        """Hash of all that decides the rendered text: template, keywords, message form, date, special tokens."""
        return self._hash

    def portable_template(self) -> str:
        """The chat template for another program: hone's keywords and fixed date are written into it."""
        return self._template.portable(self._settings)

    def token_text(self, token: int) -> str:
        """The text of one token id, special ones written out."""
        return self._tokens.decode([token])

    def describe(self) -> JsonDict:
        """What was chosen for this template, for storage with a version, and how many rows took an uncommon way."""
        settings = self._settings
        return {
            "template_hash": self._hash,
            "thinking": self._thinking,
            "keywords": dict(settings.keywords),
            "generation_prompt_cut": settings.cut,
            "message_form": asdict(settings.form),
            "stop_ids": list(self.stop_ids),
            "stop_tokens": [self._tokens.decode([stop]) for stop in self.stop_ids],
            "end_appended": self._ends.appended is not None,
            "date": FIXED_DATE.isoformat() if self._template.reads_date else None,
            "max_length": self._max_length,
            "notes": self._notes(),
            "counts": {name: count for name, count in sorted(self._counts.items()) if count},
        }

    def render(self, example: Example) -> Rendered:
        """Render an example as token sequences with loss masks.

        Args:
            example: the conversation, with at least one supervised turn. Messages after the last one have no part in
                the loss and are left off.

        Returns:
            The sequences, all with the example's row number.

        Raises:
            TemplateError: the template refuses, drops or alters a part of the conversation; the generation prompt does
                not open the row; a text holds control tokens; or no supervised turn fits into the maximum length.
        """
        where = f"{example.source}:{example.line}" if example.source else None
        try:
            return self._rendered(example)
        except TemplateError as fault:
            raise TemplateError(fault.what, where=where, why=fault.why, remedy=fault.remedy) from fault

    def prompt(self, messages: Sequence[Message], tools: _Tools = ()) -> tuple[int, ...]:
        """Token ids to generate from: exactly how the training row of the same messages begins.

        Args:
            messages: the turns before the assistant's, in order.
            tools: schemas of the functions that the assistant may call.

        Returns:
            The ids.

        Raises:
            TemplateError: as for :meth:`render`.
        """
        return self._tokens.encode([self.prompt_text(messages, tools)])[0]

    def prompt_text(self, messages: Sequence[Message], tools: _Tools = ()) -> str:
        """Text to generate from, special tokens written out. Arguments and errors are those of :meth:`prompt`."""
        turns = self._read(messages)
        self._controls.check(turns, tools)
        text = self._generation_text(turns, tools)
        self._lossless.check_prompt(turns, tools, text)
        return text

    def segments(self, example: Example) -> list[tuple[str, bool]]:
        """The rendered text in pieces, for people to look at.

        Args:
            example: the conversation.

        Returns:
            Pairs of text and whether it is supervised, in order. Between the sequences of one example stands a pair
            that says so.

        Raises:
            TemplateError: as for :meth:`render`.
        """
        sequences = self.render(example).sequences
        pieces: list[tuple[str, bool]] = []
        for number, sequence in enumerate(sequences, start=1):
            if number > 1:
                pieces.append((f"\n--- sequence {number} of {len(sequences)} of this row ---\n", False))
            pieces += self._pieces(sequence)
        return pieces

    def _rendered(self, example: Example) -> Rendered:
        check_turns(example.messages, calls_fault=self._calls_fault)
        last = max(index for index, message in enumerate(example.messages) if message.supervised)
        messages, tools = self._read(example.messages[: last + 1]), example.tools
        self._controls.check(messages, tools)
        texts = self._turn_texts(messages, tools)
        self._lossless.check_row(messages, tools, texts)
        encoded = iter(self._tokens.encode([text for pair in texts.values() for text in pair]))
        turns = [self._turn(pair, next(encoded), next(encoded), messages[index]) for index, pair in texts.items()]
        self._check_bos(turns[0].ids)
        named = [m.name for m in messages if m.name and m.role != "tool"]
        self._counts["speaker_names_left_out"] += sum(name not in texts[last][1] for name in named)
        fitting = [turn for turn in turns if self._max_length is None or len(turn.ids) <= self._max_length]
        if not fitting:
            raise length_fault(min(len(turn.ids) for turn in turns), self._max_length)
        whole = turns[-1].ids
        if all(turn.ids == whole[: len(turn.ids)] for turn in turns):
            ids = fitting[-1].ids
            return Rendered((_sequence(ids, fitting, example.row),), cut_tokens=len(whole) - len(ids))
        self._counts["rows_as_several_sequences"] += 1
        sequences = tuple(_sequence(turn.ids, [turn], example.row) for turn in fitting)
        return Rendered(sequences, cut_tokens=_left_out(turns, fitting))

    def _read(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Messages as the template has them: with reasoning apart from the answer where it has a place for it."""
        if self._settings.form.reasoning != "keys":
            return messages
        return [reasoning_apart(message) for message in messages]

    def _text(self, messages: Sequence[Message], tools: _Tools, *, generation: bool) -> str:
        return self._template.text(messages, tools, settings=self._settings, generation=generation)

    def _generation_text(self, messages: Sequence[Message], tools: _Tools) -> str:
        return self._text(messages, tools, generation=True)

    def _turn_texts(self, messages: Sequence[Message], tools: _Tools) -> dict[int, tuple[str, str]]:
        """Texts of each supervised turn: its prompt, and the conversation up to and with it."""
        texts = {}
        for index, message in enumerate(messages):
            if not message.supervised:
                continue
            prompt = self._text(messages[:index], tools, generation=True)
            whole = self._text(messages[: index + 1], tools, generation=False)
            if not whole.startswith(prompt):
                raise prefix_fault(message, index, thinking=self._thinking)
            texts[index] = (prompt, whole)
        return texts

    def _turn(self, texts: tuple[str, str], prompt: tuple[int, ...], whole: tuple[int, ...], message: Message) -> _Turn:
        """Ids of one turn up to and with its end, such that the prompt's ids are a prefix."""
        if whole[: len(prompt)] != prompt:
            # A token crosses the boundary (an answer that begins with a line break): the prompt decides, for it is what
            # generation will see.
            self._counts["turns_tokenised_apart_from_prompt"] += 1
            whole = prompt + self._tokens.continuation(texts[1][len(texts[0]) :])
        if self._ends.appended is not None:
            return _Turn((*whole, self._ends.appended), len(prompt))
        for position in self._tokens.closing(whole, len(prompt)):
            if whole[position] in self._stops:
                return _Turn(whole[: position + 1], len(prompt))
        kind = "a turn of tool calls" if message.tool_calls else "this turn"
        raise TemplateError(
            f"the chat template ends {kind} with none of the stop tokens",
            why="the model would not learn to end such turns",
            remedy="use a template that ends every assistant turn with its end-of-turn token",
        )

    def _pieces(self, sequence: TokenSequence) -> list[tuple[str, bool]]:
        """Runs of equal mask as text; each is what decoding adds to the text before it, so that no space is lost."""
        pieces = []
        start, before = 0, ""
        for end in range(1, len(sequence.ids) + 1):
            if end == len(sequence.ids) or sequence.supervised[end] != sequence.supervised[start]:
                text = self._tokens.decode(sequence.ids[:end])
                pieces.append((text[len(before) :], sequence.supervised[start]))
                start, before = end, text
        return pieces

    def _check_bos(self, ids: Sequence[int]) -> None:
        if self._bos is not None and tuple(ids[:2]) == (self._bos, self._bos):
            raise TemplateError(
                "the chat template begins with two beginning-of-sequence tokens",
                why="the base model has only ever seen one",
                remedy="take one of them out of the template",
            )

    def _notes(self) -> list[str]:
        settings = self._settings
        notes = []
        if settings.keywords:
            given = ", ".join(f"{name}={value}" for name, value in settings.keywords.items())
            notes.append(f"the template is given {given}, in training and generation alike")
        if settings.cut:
            notes.append(f"the generation prompt is without its end {settings.cut!r}, which the template's rows lack")
        if settings.form.system == "folded":
            notes.append("the template does not keep a system message: it is put before the first user message")
        if self._thinking and settings.form.reasoning == "inline":
            notes.append("the template has no place for reasoning: it is written into the answer, in <think> tags")
        if self._thinking and settings.form.reasoning == "dropped":
            notes.append("the template drops reasoning: rows that have some are refused")
        if self._ends.appended is not None:
            notes.append("the template ends no answer: the end-of-sequence token is appended, one sequence a turn")
        if self._template.reads_date:
            notes.append(f"the template prints the date: it is always told {FIXED_DATE.isoformat()}")
        return notes


def _sequence(ids: tuple[int, ...], turns: Iterable[_Turn], row: int) -> TokenSequence:
    """Ids with the completions of some turns supervised."""
    marks = [False] * len(ids)
    for turn in turns:
        marks[turn.start : len(turn.ids)] = [True] * (len(turn.ids) - turn.start)
    return TokenSequence(ids, tuple(marks), row)


def _left_out(turns: Sequence[_Turn], fitting: Sequence[_Turn]) -> int:
    """Tokens that turns left out would have added: at least their own, where the history before them was shortened."""
    before, added = 0, 0
    for turn in turns:
        if turn not in fitting:
            added += max(len(turn.ids) - before, len(turn.ids) - turn.start)
        before = len(turn.ids)
    return added
