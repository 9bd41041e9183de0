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
CALL = ToolCall("qztoolname", {"qztoolkey": "qzvalue", "qzlist": [{"qzinner": "qzdeep"}]}, "call_qz1a2b3c4d5e6f7g8h9i")
CALLING = Message("assistant", "", supervised=True, tool_calls=(CALL,))
RESULT = Message("tool", "qzresult", tool_call_id=CALL.id, name=CALL.name)

_ARGUMENTS: tuple[Literal["mapping", "json"], ...] = ("mapping", "json")
_EMPTY_CONTENTS: tuple[Literal["empty", "absent"], ...] = ("empty", "absent")
_CALL_IDS: tuple[Literal["own", "ordinal"], ...] = ("own", "ordinal")
_PLAIN_KEYWORDS: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False}, {"thinking": False})
_THINKING_KEYWORDS: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"thinking": True})


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
    for reasoning in ("keys", "inline"):
        trial = replace(form, reasoning=reasoning)
        text = _text(template, [QUESTION, THOUGHTFUL], TemplateSettings(trial)) or ""
        if "qzreasoning" in text and ANSWER.content in text:
            return trial
    return form


def _completion(template: ChatTemplate, answer: Message, settings: TemplateSettings) -> str | None:
    """What follows the generation prompt in the row of a probe; None where the prompt is no prefix of the row."""
    prompt = _text(template, [QUESTION], settings, generation=True)
    whole = _text(template, [QUESTION, answer], settings)
    if prompt is None or whole is None or not whole.startswith(prompt):
        return None
    return whole[len(prompt) :]


def _generation_prompt(template: ChatTemplate, form: MessageForm, *, thinking: bool) -> TemplateSettings:
    """The first keywords under which the generation prompt opens the row; its end is cut only as a last resort.

    Without thinking, keywords under which nothing but the answer is left to generate are preferred: with them the base
    model, too, answers at once, and no empty think block is trained.
    """
    sets = [
        TemplateSettings(form, keywords)
        for keywords in (_THINKING_KEYWORDS if thinking else _PLAIN_KEYWORDS)
        if all(template.mentions(name) for name in keywords)
    ]
    cut = [trimmed for settings in sets if (trimmed := _trimmed(template, settings, thinking=thinking)) is not None]
    plain = {id(settings): _completion(template, ANSWER, settings) for settings in [*sets, *cut]}
    if not thinking:
        exact = [s for s in sets if (plain[id(s)] or "").lstrip().startswith(ANSWER.content)]
        fitting = exact or [s for s in [*sets, *cut] if plain[id(s)] is not None]
    else:
        thought = {id(s): _completion(template, THOUGHTFUL, s) for s in [*sets, *cut]}
        whole = [s for s in [*sets, *cut] if "qzreasoning" in (thought[id(s)] or "")]
        fitting = [s for s in whole if plain[id(s)] is not None] or whole
        if not fitting:
            fitting = [s for s in [*sets, *cut] if plain[id(s)] is not None]
    if fitting:
        return fitting[0]
    raise TemplateError(
        "the chat template's generation prompt is not how its training rows begin",
        why="the model would be asked with another text than it was trained on",
        remedy="use a template whose rows begin with its generation prompt, such as TRL's training variant of this one",
    )


def _trimmed(template: ChatTemplate, settings: TemplateSettings, *, thinking: bool) -> TemplateSettings | None:
    """Settings that leave off the end of the generation prompt in which it departs from the training rows.

    Some of the header must remain: with no header at all the model would have to write its own role.
    """
    answers = (ANSWER, THOUGHTFUL) if thinking else (ANSWER,)
    bare = _text(template, [QUESTION], settings)
    prompt = _text(template, [QUESTION], settings, generation=True)
    rows = [_text(template, [QUESTION, answer], settings) for answer in answers]
    if bare is None or prompt is None or None in rows or not prompt.startswith(bare):
        return None
    kept = min(_common(prompt, row or "") for row in rows)
    return replace(settings, cut=prompt[kept:]) if len(bare) < kept < len(prompt) else None


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
    messages = [QUESTION, CALLING, RESULT, ANSWER]
    fault = None
    for arguments, empty, ids in itertools.product(_ARGUMENTS, _EMPTY_CONTENTS, _CALL_IDS):
        form = replace(settings.form, arguments=arguments, empty_content=empty, call_ids=ids)
        trial = replace(settings, form=form)
        # The calling turn is looked at alone: some templates print it otherwise once the result is there.
        turn = _text(template, messages[:2], trial, tools=(MARKED_TOOL,))
        if turn is None or _text(template, messages, trial, tools=(MARKED_TOOL,)) is None or "qzdeep" not in turn:
            continue
        if "'qzinner':" in turn or "'qztoolkey':" in turn:
            fault = fault or "the chat template prints a tool call's arguments as a Python dictionary, not as JSON"
        elif '\\"qztoolkey' in turn or '\\"qzinner' in turn:
            fault = fault or "the chat template prints a tool call's arguments as JSON within JSON"
        else:
            return trial, None
    return settings, fault


def _first_run(positions: Sequence[int]) -> list[int]:
    """The leading positions that follow one another without a gap."""
    return [position for number, position in enumerate(positions) if position == positions[0] + number]


def _call_end(
    template: ChatTemplate, tokens: TemplateTokens, settings: TemplateSettings, *, known: set[int]
) -> list[int]:
    """The token that ends a turn of tool calls, where it is another than that of an answer (gpt-oss: ``<|call|>``).

    A token that also stands between two calls of one turn ends a call, not the turn.
    """
    second = replace(CALL, id="call_qz0a9b8c7d6e5f4g3h2i1jklm")
    found: list[int] = []
    for calls in ((CALL,), (CALL, second)):
        messages = [QUESTION, replace(CALLING, tool_calls=calls)]
        prompt = _text(template, messages[:1], settings, generation=True, tools=(MARKED_TOOL,))
        whole = _text(template, messages, settings, tools=(MARKED_TOOL,))
        if prompt is None or whole is None or not whole.startswith(prompt):
            continue
        if whole[len(prompt) :].count(CALL.name) < len(calls):
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
