"""Finds out, by rendering small conversations, what a chat template needs and how its turns end.

Nothing here knows a model's name or a template's markers. Each choice is the first, in a fixed order, under which a
probe comes out whole, so that the same tokenizer always gives the same choices, in training and in serving.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hone.data.lossless import MARKED_TOOL
from hone.data.message_dicts import MessageForm
from hone.data.template import ChatTemplate, TemplateSettings
from hone.data.template_tokens import TemplateTokens
from hone.errors import TemplateError
from hone.types import Message, ToolCall

__all__ = ["TurnEnds", "choose_settings", "find_turn_ends", "structure_texts"]

SYSTEM = Message("system", "qzsystem")
QUESTION = Message("user", "qzquestion")
ANSWER = Message("assistant", "qzanswer", supervised=True)
THOUGHTFUL = replace(ANSWER, reasoning="qzreasoning")
# The id is as long as OpenAI's are: Mistral's templates refuse such.
CALL = ToolCall("qztoolname", {"qztoolkey": "qzvalue", "qzlist": [{"qzinner": "qzvalue"}]}, "call_qz1a2b3c4d5e6f7g8h9i")
FLAT_CALL = replace(CALL, arguments={"qztoolkey": "qzvalue"})

_ARGUMENTS: tuple[Literal["mapping", "json"], ...] = ("mapping", "json")
_EMPTY_CONTENTS: tuple[Literal["empty", "absent"], ...] = ("empty", "absent")
_CALL_IDS: tuple[Literal["own", "ordinal"], ...] = ("own", "ordinal")
_THINKING_KEYWORDS = ("enable_thinking", "thinking")


def choose_settings(template: ChatTemplate, *, thinking: bool) -> tuple[TemplateSettings, str | None]:
    """Choose the settings under which a generation prompt is a prefix of the training row.

    Args:
        template: the chat template.
        thinking: whether answers carry reasoning, so that the generation prompt must let the model think.

    Returns:
        The settings, and why turns with tool calls cannot be rendered faithfully (None where they can, or where the
        template itself will refuse or drop them, which shows on the row).

    Raises:
        TemplateError: not even a plain question and answer comes out, or no generation prompt fits it.
    """
    form = _with_reasoning_form(template, _content_form(template))
    settings = _generation_prompt(template, form, thinking=thinking)
    settings = _with_system_form(template, settings)
    return _with_call_form(template, settings)


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """How assistant turns end.

    Args:
        stops: ids of the tokens that end a turn, the tokenizer's end of sequence first.
        appended: the token to append to each answer, where the template ends a conversation with no such token.
    """

    stops: tuple[int, ...]
    appended: int | None


def find_turn_ends(
    template: ChatTemplate,
    tokens: TemplateTokens,
    settings: TemplateSettings,
    *,
    eos: int | None,
    extra: Sequence[int] = (),
) -> TurnEnds:
    """Find the tokens that end an assistant's turn, for answers and for tool calls.

    Args:
        template: the chat template.
        tokens: its tokenizer.
        settings: the settings chosen for the template.
        eos: the tokenizer's end-of-sequence token, if it has one.
        extra: further stop tokens, as those of a generation config.

    Returns:
        The ends.

    Raises:
        TemplateError: the template ends turns with no token, and there is no end-of-sequence token to append.
    """
    once = [QUESTION, ANSWER]
    twice = [*once, replace(QUESTION, content="qzsecond"), replace(ANSWER, content="qzother")]
    prompt, whole, longer = (
        _text(template, messages, settings, generation=generation)
        for messages, generation in ((once[:1], True), (once, False), (twice, False))
    )
    prompt_ids, whole_ids, longer_ids = tokens.encode([prompt or "", whole or "", longer or ""])
    run = _first_run(tokens.closing(whole_ids, len(prompt_ids)))
    # Where a conversation ends with more than a turn does ("<|im_end|><eos>"), the turn's own end is what both have.
    shared = [position for position in run if whole_ids[: position + 1] == longer_ids[: position + 1]]
    found = [whole_ids[(shared or run)[-1]]] if run else []
    if not found and eos is None:
        raise TemplateError(
            "the chat template ends an answer with no token, and the tokenizer has no end-of-sequence token",
            why="a model trained on this would never stop",
            remedy="set tokenizer.eos_token, or a chat template that ends each turn",
        )
    stops = [*([] if eos is None else [eos]), *found]
    if found:
        stops += _call_end(template, tokens, settings, known=set(stops))
    stops += extra
    return TurnEnds(stops=tuple(dict.fromkeys(stops)), appended=None if found else eos)


def structure_texts(template: ChatTemplate, tokens: TemplateTokens, settings: TemplateSettings) -> set[str]:
    """Texts of the control tokens that make up the template's turns.

    Tags of reasoning are left out: answers may well hold them.

    Args:
        template: the chat template.
        tokens: its tokenizer.
        settings: the settings chosen for the template.

    Returns:
        The tokens' texts.
    """
    found: set[int] = set()
    for messages in ([QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER, QUESTION]):
        found |= tokens.controls_in(_text(template, messages, settings, generation=True) or "")
    return {text for text in tokens.texts(found) if "think" not in text}


def _text(
    template: ChatTemplate,
    messages: Sequence[Message],
    settings: TemplateSettings,
    *,
    generation: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str | None:
    """A probe's text, or None where the template refuses it."""
    try:
        return template.text(messages, tools, settings=settings, generation=generation)
    except TemplateError:
        return None


def _content_form(template: ChatTemplate) -> MessageForm:
    reason = "it drops the messages"
    for content in ("text", "parts"):
        form = MessageForm(content=content)
        try:
            text = template.text([QUESTION, ANSWER], (), settings=TemplateSettings(form), generation=False)
        except TemplateError as fault:
            reason = fault.what
            continue
        if QUESTION.content in text and ANSWER.content in text:
            return form
    raise TemplateError(
        f"the chat template cannot render a question and its answer: {reason}",
        remedy="use the instruction-tuned model's own template, or remove it to get hone's fallback",
    )


def _with_reasoning_form(template: ChatTemplate, form: MessageForm) -> MessageForm:
    """Reasoning goes where the template has a place for it, else into the answer in ``<think>`` tags.

    Not so where the template has another way to think than these tags and drops the reasoning of this turn all the same
    (Gemma 4): tags that the model was never trained on would be no better than a refusal.
    """
    foreign = not template.mentions("<think>") and (template.mentions("thinking") or template.mentions("reasoning_"))
    inline = replace(form, reasoning="inline")
    for trial in [form] if foreign else [form, inline]:
        text = _text(template, [QUESTION, THOUGHTFUL], TemplateSettings(trial)) or ""
        if "qzreasoning" in text and ANSWER.content in text:
            return trial
    return replace(form, reasoning="dropped")


def _completion(template: ChatTemplate, answer: Message, settings: TemplateSettings) -> str | None:
    """What follows the generation prompt in the row of a probe; None where the prompt is no prefix of the row."""
    prompt = _text(template, [QUESTION], settings, generation=True)
    whole = _text(template, [QUESTION, answer], settings)
    if prompt is None or whole is None or not whole.startswith(prompt):
        return None
    return whole[len(prompt) :]


def _keyword_sets(template: ChatTemplate, form: MessageForm, *, thinking: bool) -> list[TemplateSettings]:
    """Settings to try: thinking asked for or forbidden where the template has a word for it, then its default.

    A keyword that changes no text is left out, so that other programs, which do not give it, render the same.
    """
    default = TemplateSettings(form)
    found = []
    for name in _THINKING_KEYWORDS:
        trial = TemplateSettings(form, {name: thinking})
        if template.mentions(name) and _probe_texts(template, trial) != _probe_texts(template, default):
            found.append(trial)
    return [*found, default]


def _probe_texts(template: ChatTemplate, settings: TemplateSettings) -> list[str | None]:
    conversations = ([QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER], [QUESTION, THOUGHTFUL])
    return [_text(template, messages, settings, generation=len(messages) == 1) for messages in conversations]


def _generation_prompt(template: ChatTemplate, form: MessageForm, *, thinking: bool) -> TemplateSettings:
    """The first settings under which the generation prompt opens the row; its end is cut only as a last resort.

    Asking for a direct answer comes first where rows have no reasoning: the base model, too, then answers at once, and
    no empty think block is trained.
    """
    sets = _keyword_sets(template, form, thinking=thinking)
    found: list[TemplateSettings] = []
    if thinking:
        whole = [s for s in sets if "qzreasoning" in (_completion(template, THOUGHTFUL, s) or "")]
        both = [s for s in whole if _completion(template, ANSWER, s) is not None]
        found = both or _trimmed(template, whole, (ANSWER, THOUGHTFUL)) or whole
    if not found:
        fitting = [s for s in sets if _completion(template, ANSWER, s) is not None]
        found = fitting or [s for s in _trimmed(template, sets, (ANSWER,)) if _is_answer_alone(template, s)]
    if found:
        return found[0]
    raise TemplateError(
        "the chat template's generation prompt is not how its training rows begin",
        why="the model would be asked with another text than it was trained on",
        remedy="use a template whose rows begin with its generation prompt, such as TRL's training variant of this one",
    )


def _is_answer_alone(template: ChatTemplate, settings: TemplateSettings) -> bool:
    """Whether nothing of the template stands between the generation prompt and the answer."""
    return (_completion(template, ANSWER, settings) or "").lstrip().startswith(ANSWER.content)


def _trimmed(
    template: ChatTemplate, sets: Sequence[TemplateSettings], answers: Sequence[Message]
) -> list[TemplateSettings]:
    """Settings that leave off the end of the generation prompt in which it departs from the rows of some answers."""
    found = []
    for settings in sets:
        prompt = _text(template, [QUESTION], settings, generation=True)
        rows = [_text(template, [QUESTION, answer], settings) for answer in answers]
        if prompt is None or None in rows:
            continue
        kept = min(_common(prompt, row or "") for row in rows)
        if kept < len(prompt):
            found.append(replace(settings, cut=prompt[kept:]))
    return found


def _common(left: str, right: str) -> int:
    """Length of the prefix that two texts share."""
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _with_system_form(template: ChatTemplate, settings: TemplateSettings) -> TemplateSettings:
    for system in ("own", "folded"):
        trial = replace(settings, form=replace(settings.form, system=system))
        if SYSTEM.content in (_text(template, [SYSTEM, QUESTION, ANSWER], trial) or ""):
            return trial
    return settings


def _with_call_form(template: ChatTemplate, settings: TemplateSettings) -> tuple[TemplateSettings, str | None]:
    """The form of tool calls, tried with nested arguments first; rows whose arguments come out wrong are refused."""
    fault = None
    for call in (CALL, FLAT_CALL):
        for arguments, empty, ids in itertools.product(_ARGUMENTS, _EMPTY_CONTENTS, _CALL_IDS):
            form = replace(settings.form, arguments=arguments, empty_content=empty, call_ids=ids)
            trial = replace(settings, form=form)
            turn = _calling_text(template, call, trial)
            if turn is None or "qztoolkey" not in turn or "qzvalue" not in turn:
                continue
            if "'qzinner':" in turn or "'qztoolkey':" in turn:
                fault = "the chat template prints a tool call's arguments as a Python dictionary, not as JSON"
            elif '\\"qztoolkey' in turn or '\\"qzinner' in turn:
                fault = "the chat template prints a tool call's arguments as JSON within JSON"
            else:
                return trial, None
    return settings, fault


def _calling_text(template: ChatTemplate, call: ToolCall, settings: TemplateSettings) -> str | None:
    """Text of a question and a turn with a call, if the template also takes the result and the answer after it."""
    calling = Message("assistant", "", supervised=True, tool_calls=(call,))
    result = Message("tool", "qzresult", tool_call_id=call.id, name=call.name)
    if _text(template, [QUESTION, calling, result, ANSWER], settings, tools=(MARKED_TOOL,)) is None:
        return None
    return _text(template, [QUESTION, calling], settings, tools=(MARKED_TOOL,))


def _first_run(positions: Sequence[int]) -> list[int]:
    """The leading positions that follow one another without a gap."""
    return [position for number, position in enumerate(positions) if position == positions[0] + number]


def _call_end(
    template: ChatTemplate, tokens: TemplateTokens, settings: TemplateSettings, *, known: set[int]
) -> list[int]:
    """The token that ends a turn of tool calls, where it is another than that of an answer (gpt-oss: ``<|call|>``).

    A token that also stands between two calls of one turn ends a call, not the turn.
    """
    second = replace(FLAT_CALL, id="call_qz0a9b8c7d6e5f4g3h2i")
    found: list[int] = []
    for calls in ((FLAT_CALL,), (FLAT_CALL, second)):
        messages = [QUESTION, Message("assistant", "", supervised=True, tool_calls=calls)]
        prompt = _text(template, messages[:1], settings, generation=True, tools=(MARKED_TOOL,))
        whole = _text(template, messages, settings, tools=(MARKED_TOOL,))
        if prompt is None or whole is None or not whole.startswith(prompt):
            continue
        if whole[len(prompt) :].count(FLAT_CALL.name) < len(calls):
            continue
        prompt_ids, whole_ids = tokens.encode([prompt, whole])
        closing = tokens.closing(whole_ids, len(prompt_ids))
        if not closing or any(whole_ids[position] in known for position in closing):
            return []
        end = whole_ids[_first_run(closing)[-1]]
        if whole_ids[len(prompt_ids) :].count(end) > 1:
            return []
        found = [end]
    return found
