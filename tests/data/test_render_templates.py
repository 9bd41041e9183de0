"""The renderer over every chat template that TRL ships: right masks, or a refusal that stands in the table below.

The oracle knows nothing of rendering: each part of a conversation is a word of its own, and the words found in the
supervised and in the other tokens are compared with those that belong there.
"""

from __future__ import annotations

import functools
from itertools import groupby

import pytest

from hone.data.render import Renderer
from hone.errors import TemplateError
from hone.types import Example, Message, TokenSequence, ToolCall
from tests.data.chat_tokenizers import family_tokenizer, trl_templates

TEMPLATES = trl_templates()
TOOL = {
    "type": "function",
    "function": {
        "name": "weatherword",
        "description": "describedword",
        "parameters": {
            "type": "object",
            "properties": {"cityword": {"type": "string", "description": "paramword"}},
            "required": ["cityword"],
        },
    },
}
TOOL_WORDS = ("weatherword", "describedword", "cityword", "paramword")
CALL = ToolCall("weatherword", {"cityword": "callword"}, "call00001")
OTHER_CALL = ToolCall("weatherword", {"cityword": "extraargument"}, "call00002")


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, *, reasoning: str | None = None, calls: tuple[ToolCall, ...] = ()) -> Message:
    return Message("assistant", text, supervised=True, reasoning=reasoning, tool_calls=calls)


def result(text: str, call: ToolCall) -> Message:
    return Message("tool", text, tool_call_id=call.id)


SYSTEM = Message("system", "systemword")
CASES: dict[str, Example] = {
    "single": Example((user("firstword"), answer("answerone"))),
    "multi": Example((user("firstword"), answer("answerone"), user("secondword"), answer("answertwo"))),
    "last": Example(
        (user("firstword"), Message("assistant", "historyword"), user("secondword"), answer("answertwo")),
    ),
    "system": Example((SYSTEM, user("firstword"), answer("answerone"), user("secondword"), answer("answertwo"))),
    "tools": Example(
        (SYSTEM, user("firstword"), answer("", calls=(CALL,)), result("resultword", CALL), answer("answertwo")),
        tools=(TOOL,),
    ),
    "parallel": Example(
        (
            user("firstword"),
            answer("", calls=(CALL, OTHER_CALL)),
            result("resultword", CALL),
            result("extraoutcome", OTHER_CALL),
            answer("answertwo"),
        ),
        tools=(TOOL,),
    ),
    "reasoning": Example((user("firstword"), answer("answerone", reasoning="thoughtone"))),
    "reasoning_multi": Example(
        (
            user("firstword"),
            answer("answerone", reasoning="thoughtone"),
            user("secondword"),
            answer("answertwo", reasoning="thoughttwo"),
        ),
    ),
}

# --- the table of refusals: by case, the templates (with their training variants, where TRL has one) and the reason --

ALTERNATE = "Conversation roles must alternate"
NO_CALLS = "drops or alters the assistant's tool call"
NO_DEFINITIONS = "drops or alters the definitions of the tools"
NO_REASONING = "drops or alters the assistant's reasoning"

WITHOUT_TOOLS = {
    ("cohere", "cohere2", "gemma", "gemma3"): ALTERNATE,
    ("deepseek_r1_distill", "idefics3", "lfm2", "llama3", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"): NO_CALLS,
    ("deepseekv3",): NO_DEFINITIONS,
    ("llava_next",): "Only user and assistant roles are supported",
}
# Gemma 4 before its fifth revision keeps reasoning only in turns that call tools; DeepSeek's templates drop it always.
WITHOUT_REASONING = {
    ("deepseekv3", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4"): NO_REASONING,
    ("deepseek_r1_distill only",): NO_REASONING,
}
REFUSED: dict[str, dict[tuple[str, ...], str]] = {
    "tools": WITHOUT_TOOLS,
    "parallel": {
        **WITHOUT_TOOLS,
        ("llama3_1", "llama3_2"): "only supports single tool-calls at once",
        ("gptoss",): NO_CALLS,
    },
    "reasoning": WITHOUT_REASONING,
    "reasoning_multi": WITHOUT_REASONING,
}


def refusal(template: str, case: str) -> str | None:
    for names, reason in REFUSED.get(case, {}).items():
        if template in names or template.removesuffix("_training") in names or f"{template} only" in names:
            return reason
    return None


# --- the tokens that end turns, written down from the models' own documentation, by beginning of the name -------------

ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "gemma4": "<turn|>",
    "glm4moe": "<|endoftext|>",
    "gptoss": "<|return|>",
    "idefics3": "<end_of_utterance>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llava": "</s>",
    "muse": "<|eot|>",
    "nemotron": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen": "<|im_end|>",
    "smolvlm": "<end_of_utterance>",
    "glm4moe_training": "<|user|>",
}
CALL_ENDS = {
    "diffusion_gemma": "<|tool_response>",
    "gemma4": "<|tool_response>",
    "gemma4_v2": "<turn|>",
    "gptoss": "<|call|>",
    "glm4moe_training": "<|observation|>",
}


def turn_end(template: str, message: Message) -> str:
    table = {**ENDS, **CALL_ENDS} if message.tool_calls else ENDS
    return table[max((name for name in table if template.startswith(name)), key=len)]


@functools.cache
def renderer(template: str, thinking: bool) -> Renderer:
    return Renderer(family_tokenizer(template, TEMPLATES[template]), thinking=thinking)


@functools.cache
def tokenizer(template: str):
    return family_tokenizer(template, TEMPLATES[template])


def words(message: Message) -> set[str]:
    found = {message.content, message.reasoning or ""}
    found |= {str(value) for call in message.tool_calls for value in call.arguments.values()}
    return found - {""}


def supervised_runs(sequences: tuple[TokenSequence, ...]) -> list[tuple[TokenSequence, int, int]]:
    """(sequence, start, end) of each run of supervised tokens, in order."""
    runs = []
    for sequence in sequences:
        position = 0
        for supervised, group in groupby(sequence.supervised):
            length = len(list(group))
            if supervised:
                runs.append((sequence, position, position + length))
            position += length
    return runs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_masks_are_right_or_the_refusal_is_in_the_table(template: str, case: str) -> None:
    example, thinking = CASES[case], case.startswith("reasoning")
    reason = refusal(template, case)
    if reason is not None:
        with pytest.raises(TemplateError, match=reason):
            renderer(template, thinking).render(example)
        return
    rendered = renderer(template, thinking).render(example)
    decode = tokenizer(template).decode
    turns = [index for index, message in enumerate(example.messages) if message.supervised]
    runs = supervised_runs(rendered.sequences)
    assert rendered.cut_tokens == 0
    assert len(runs) == len(turns), "each supervised turn is supervised exactly once"
    assert len(rendered.sequences) in (1, len(turns))
    for index, (sequence, start, end) in zip(turns, runs, strict=True):
        message = example.messages[index]
        text = decode(sequence.ids[start:end])
        others = {word for m in example.messages if m is not message for word in words(m)} - words(message)
        assert all(text.count(word) == 1 for word in words(message)), text
        assert not any(word in text for word in others), text
        # the end of the turn is supervised, is a stop token, and stands there once
        ending = turn_end(template, message)
        assert decode([sequence.ids[end - 1]]) == ending
        assert text.count(ending) == 1
        assert sequence.ids[end - 1] in renderer(template, thinking).stop_ids
        # the generation prompt is, id for id, what stands before the turn
        assert renderer(template, thinking).prompt(example.messages[:index], example.tools) == sequence.ids[:start]
        # what the model is asked stands there, and is not supervised
        before = decode(sequence.ids[:start])
        assert all(word in before for m in example.messages[:index] if m.role != "assistant" for word in words(m))
        assert not any(word in before for word in words(message)), before
        assert not example.tools or all(word in before for word in TOOL_WORDS)
        # one beginning of sequence at most, and only in front
        assert tokenizer(template).bos_token_id not in sequence.ids[1:]


@pytest.mark.parametrize("case", ["single", "multi", "last", "system"])
def test_no_template_is_refused_for_plain_conversations(case: str) -> None:
    assert not REFUSED.get(case)


def test_the_table_of_refusals_names_only_templates_that_exist() -> None:
    named = {name.removesuffix(" only") for groups in REFUSED.values() for names in groups for name in names}
    assert named <= set(TEMPLATES)


# Templates whose text is not transformers' default by design, and why.
OWN_TEXT = {
    "glm4moe": "the end of sequence is appended",
    "gptoss": "prints today's date",
    "gptoss_training": "prints today's date",
    "llama3_2": "prints today's date",
    "muse_glimmer": "prints today's date without a system message",
    "muse_glimmer_training": "prints today's date without a system message",
    "idefics3": "wants content as parts",
    "idefics3_training": "wants content as parts",
    "llava_next": "wants content as parts",
    "llava_next_training": "wants content as parts",
    "smolvlm": "wants content as parts",
    "smolvlm_training": "wants content as parts",
    "deepseekv3": "wants arguments as text",
}
COMPARABLE = [
    (template, case)
    for template in TEMPLATES
    for case in ("single", "multi", "system", "tools")
    if template not in OWN_TEXT
    and refusal(template, case) is None
    and (template, case) not in {("gemma", "system"), ("gemma_training", "system")}  # folded into the first user turn
]


@pytest.mark.parametrize(("template", "case"), COMPARABLE)
def test_ids_are_those_of_the_tokenizers_own_chat_template(template: str, case: str) -> None:
    """transformers' ids begin with ours; what it has beyond is the template's closing, without any word."""
    made, example = renderer(template, False), CASES[case]
    sequence = made.render(example).sequences[-1]
    messages = []
    for message in example.messages:
        entry = {"role": message.role, "content": message.content}
        if message.tool_calls:
            entry["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
                for c in message.tool_calls
            ]
        if message.tool_call_id:
            entry |= {"tool_call_id": message.tool_call_id, "name": "weatherword"}
        messages.append(entry)
    tools, keywords = list(example.tools) or None, made.describe()["keywords"]
    theirs = tokenizer(template).apply_chat_template(messages, tools=tools, return_dict=False, **keywords)
    assert tuple(theirs[: len(sequence.ids)]) == sequence.ids
    rest = tokenizer(template).decode(theirs[len(sequence.ids) :])
    assert rest.strip() in ("", "<|endoftext|>")


def test_most_templates_give_conversations_as_one_sequence() -> None:
    """Rewriting history is the exception: with these templates, and no others, a plain conversation is split."""
    split = {name for name in TEMPLATES if len(renderer(name, False).render(CASES["multi"]).sequences) > 1}
    assert split == {
        "glm4moe",  # has no end of turn; the end of sequence is appended
        "gptoss",  # ends the last turn with <|return|>, earlier ones with <|end|>
        "gptoss_training",
        "qwen3",  # writes an empty think block into the last turn alone
        "qwen3_5_nothink",
        "qwen3_5_think",
        "qwen3_6",
    }
