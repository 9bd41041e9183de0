"""What must hold of a conversation before it is trained on, and what is said where it does not.

Every refusal names the part of the row, why it matters and what to do, for it ends in the row ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hone.data.lossless import LostPart, Shape, lost_parts, marked_conversation, shape_of
from hone.data.template_tokens import ControlTokens
from hone.errors import TemplateError
from hone.types import Message

__all__ = ["ControlCheck", "LosslessCheck", "TurnTexts", "check_turns", "length_fault", "prefix_fault"]

Tools = Sequence[Mapping[str, Any]]

TurnTexts = Callable[[Sequence[Message], Tools], dict[int, tuple[str, str]]]
"""Renders a conversation: for each supervised turn, by index, its prompt and the text up to and with it."""


def check_turns(messages: Sequence[Message], *, calls_fault: str | None) -> None:
    """Refuse supervised turns from which nothing, or nothing right, would be learned.

    Args:
        messages: the turns, in order.
        calls_fault: why the template cannot print tool calls, or None.

    Raises:
        TemplateError: a supervised turn is empty, comes first, or is not the assistant's; or calls cannot be printed.
    """
    if not any(message.supervised for message in messages):
        raise TemplateError("no turn is supervised", remedy="end the conversation with an assistant's answer")
    for index, message in enumerate(messages):
        place = f"(message {index + 1})"
        if message.tool_calls and calls_fault:
            raise TemplateError(calls_fault, remedy="use a model whose template prints tool calls as JSON")
        if not message.supervised:
            continue
        if message.role != "assistant":
            raise TemplateError(f"a {message.role} turn {place} is supervised")
        if index == 0:
            raise TemplateError(
                "the conversation begins with a supervised answer, to no question",
                remedy="put the question, or an instruction, before it",
            )
        if not (message.content.strip() or message.tool_calls):
            raise TemplateError(
                f"the supervised turn {place} has no content",
                why="the model would learn to answer nothing",
                remedy="give the turn an answer, or leave the row out",
            )


class ControlCheck:
    """Refuses control tokens in the data, which the tokenizer would read as the template's own, and broken characters.

    Args:
        structure: texts of the tokens that make up turns; refused everywhere.
        special: texts of all special tokens; refused outside the assistant's turns. Answers may hold special tokens
            that are no part of a turn's frame, as LFM2's ``<|tool_call_start|>``.
    """

    def __init__(self, structure: set[str], special: set[str]) -> None:
        self._in_answers = ControlTokens(structure)
        self._elsewhere = ControlTokens(structure | special)

    def check(self, messages: Sequence[Message], tools: Tools) -> None:
        """Look through all texts of a conversation.

        Raises:
            TemplateError: a text contains a control token, or half of a character.
        """
        for index, message in enumerate(messages):
            finder = self._in_answers if message.role == "assistant" else self._elsewhere
            parts = [message.content, message.reasoning or "", message.name or ""]
            parts += [f"{call.name} {dict(call.arguments)}" for call in message.tool_calls]
            place, text = f"the {message.role} message (message {index + 1})", "\n".join(parts)
            self._refuse(finder.first_in(text), place)
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise TemplateError(
                    f"{place} contains half of a surrogate pair, which is no character",
                    remedy="mend the text's encoding, or leave the row out",
                )
        for tool in tools:
            self._refuse(self._elsewhere.first_in(str(tool)), "a tool's definition")

    def _refuse(self, found: str | None, place: str) -> None:
        if found is not None:
            raise TemplateError(
                f"{place} contains the control token {found!r}",
                why="the tokenizer would read it as the end or the beginning of a turn",
                remedy=f"remove {found!r} from the text, or write it with a space inside",
            )


class LosslessCheck:
    """Refuses conversations of which the template drops or alters a part.

    Each is looked at itself, and once for each shape of conversation a marked one is, because a short text such as "a"
    occurs in any other by chance.

    Args:
        turn_texts: renders training rows.
        prompt_text: renders a generation prompt.
    """

    def __init__(self, turn_texts: TurnTexts, prompt_text: Callable[[Sequence[Message], Tools], str]) -> None:
        self._turn_texts = turn_texts
        self._prompt_text = prompt_text
        self._known: dict[Shape, list[LostPart]] = {}

    def check_row(self, messages: Sequence[Message], tools: Tools, texts: Mapping[int, tuple[str, str]]) -> None:
        """Check a training row.

        Args:
            messages: the turns, in order, up to the last supervised one.
            tools: schemas of the functions that the assistant may call.
            texts: what ``turn_texts`` gives for them.

        Raises:
            TemplateError: a part is missing from the text.
        """
        shape = shape_of(messages, tools)
        if shape not in self._known:
            marked, schemas = marked_conversation(messages, tools)
            self._known[shape] = _lost(marked, schemas, self._turn_texts(marked, schemas))
        _refuse_lost(_lost(messages, tools, texts) or self._known[shape], messages)

    def check_prompt(self, messages: Sequence[Message], tools: Tools, text: str) -> None:
        """Check a generation prompt: the asker's side must be whole, of its own turns a template may drop reasoning.

        Args:
            messages: the turns, in order.
            tools: schemas of the functions that the assistant may call.
            text: the prompt.

        Raises:
            TemplateError: a part is missing from the text.
        """
        shape = (*shape_of(messages, tools), "prompt")
        if shape not in self._known:
            marked, schemas = marked_conversation(messages, tools)
            self._known[shape] = lost_parts(_asked(marked), schemas, self._prompt_text(marked, schemas), {})
        _refuse_lost(lost_parts(_asked(messages), tools, text, {}) or self._known[shape], _asked(messages))


def prefix_fault(message: Message, index: int, *, thinking: bool) -> TemplateError:
    """The error for a turn whose row does not begin with its generation prompt.

    Args:
        message: the supervised turn.
        index: its place in the conversation, from 0.
        thinking: whether the renderer was made for rows with reasoning.
    """
    turn = f"the assistant's turn (message {index + 1})"
    if message.reasoning is not None and not thinking:
        return TemplateError(
            f"{turn} has reasoning, but the model is asked for direct answers",
            why="the generation prompt closes the reasoning before it begins",
            remedy="render with thinking=True, or leave the reasoning out of every row",
        )
    if message.reasoning is None and thinking:
        return TemplateError(
            f"{turn} has no reasoning, but the generation prompt opens some",
            remedy="give reasoning to every supervised turn, or to none",
        )
    return TemplateError(
        f"the generation prompt is not how {turn} begins in the training row",
        why="the model would be asked with another text than it was trained on",
        remedy="let each assistant turn follow a user turn or a tool result",
    )


def length_fault(shortest: int, max_length: int | None) -> TemplateError:
    """The error for a row of which not even one supervised turn fits.

    Args:
        shortest: tokens of the shortest sequence with one whole turn.
        max_length: the maximum.
    """
    return TemplateError(
        f"{shortest} tokens, over the maximum of {max_length}",
        why="a row cut short would lose the end of its answer, and the model would not learn to stop",
        remedy="raise the maximum length, or shorten the row",
    )


def _asked(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message.role != "assistant"]


def _lost(messages: Sequence[Message], tools: Tools, texts: Mapping[int, tuple[str, str]]) -> list[LostPart]:
    completions = {index: whole[len(prompt) :] for index, (prompt, whole) in texts.items()}
    return lost_parts(messages, tools, texts[max(texts)][1], completions)


def _refuse_lost(lost: Sequence[LostPart], messages: Sequence[Message]) -> None:
    if lost:
        parts = dict.fromkeys(part.describe(messages) for part in lost)
        raise TemplateError(
            f"the chat template drops or alters {', '.join(parts)}",
            why="the model would be trained on another conversation than the one in the data",
            remedy="write it into a part that the template keeps, or use a model whose template has it",
        )
