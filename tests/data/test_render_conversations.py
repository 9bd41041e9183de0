"""What becomes of a conversation's parts: reasoning, tool calls, system messages; nothing is lost silently."""

from __future__ import annotations

import json

import pytest

from hone.data.message_dicts import MessageForm, message_dicts
from hone.data.render import Renderer, has_reasoning
from hone.errors import TemplateError
from hone.types import Example, Message, ToolCall
from tests.data.chat_tokenizers import (
    family_tokenizer,
    small_tokenizer,
)
from tests.data.rendering import (
    HEAD,
    TAIL,
    TRL,
    TURN,
    calling,
    chatml,
    custom,
    supervised_text,
    talk,
    trl,
)

# --- reasoning --------------------------------------------------------------------------------------------------------

THOUGHT = Example((Message("user", "q"), Message("assistant", "a", supervised=True, reasoning="because")))


def test_without_thinking_reasoning_models_are_asked_for_the_answer_alone() -> None:
    renderer = trl("qwen3")
    assert renderer.describe()["keywords"] == {"enable_thinking": False}
    assert renderer.prompt_text([Message("user", "q")]).endswith("<think>\n\n</think>\n\n")
    assert supervised_text(renderer, talk("q", "a")) == ["a<|im_end|>"]
    with pytest.raises(TemplateError, match="has reasoning, but the model is asked for direct answers") as caught:
        renderer.render(THOUGHT)
    assert "thinking=True" in (caught.value.remedy or "")


def test_with_thinking_reasoning_is_supervised_and_rows_without_it_still_work() -> None:
    renderer = trl("qwen3", thinking=has_reasoning([THOUGHT]))
    assert supervised_text(renderer, THOUGHT) == ["<think>\nbecause\n</think>\n\na<|im_end|>"]
    assert supervised_text(renderer, talk("q", "a")) == ["<think>\n\n</think>\n\na<|im_end|>"]


def test_history_without_its_reasoning_is_no_loss_where_each_turn_has_a_sequence_with_it() -> None:
    second = Message("assistant", "b", supervised=True, reasoning="therefore")
    example = Example((*THOUGHT.messages, Message("user", "more"), second))
    assert supervised_text(trl("qwen3", thinking=True), example) == [
        "<think>\nbecause\n</think>\n\na<|im_end|>",
        "<think>\ntherefore\n</think>\n\nb<|im_end|>",
    ]


def test_a_think_block_that_rows_lack_is_left_off_the_generation_prompt() -> None:
    renderer = trl("deepseek_r1_distill")
    assert renderer.describe()["generation_prompt_cut"] == "<think>\n"
    assert renderer.prompt_text([Message("user", "q")]).endswith("<｜Assistant｜>")
    assert any("<think>" in note for note in renderer.describe()["notes"])


def test_has_reasoning_looks_at_supervised_turns_only() -> None:
    assert has_reasoning([THOUGHT])
    assert not has_reasoning([talk("q", "a")])
    history = Message("assistant", "a", reasoning="because")
    assert not has_reasoning([Example((Message("user", "q"), history, *talk("q", "a").messages))])


def test_reasoning_goes_inline_only_where_the_template_has_no_other_way_to_think() -> None:
    assert supervised_text(chatml(thinking=True), THOUGHT) == ["<think>\nbecause\n</think>\n\na<|im_end|>"]
    with pytest.raises(TemplateError, match="drops or alters the assistant's reasoning"):
        trl("gemma4", thinking=True).render(THOUGHT)


INLINE = talk("q", "<think>\nbecause\n</think>\n\na")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "gptoss", "nemotron_3_nano", "lfm2_2_5"])
def test_reasoning_in_tags_before_the_answer_is_read_as_reasoning(name: str) -> None:
    assert has_reasoning([INLINE])
    renderer = trl(name, thinking=True)
    assert renderer.render(INLINE) == renderer.render(THOUGHT)
    followed = Example((*INLINE.messages, Message("user", "more")))
    apart = Example((*THOUGHT.messages, Message("user", "more")))
    assert renderer.prompt(followed.messages) == renderer.prompt(apart.messages)


def test_tags_stay_as_written_where_the_template_has_no_place_for_reasoning() -> None:
    assert supervised_text(chatml(), talk("q", "<think>hm</think>a")) == ["<think>hm</think>a<|im_end|>"]
    with pytest.raises(TemplateError, match="drops or alters the assistant's content"):
        trl("deepseek_r1_distill").render(INLINE)


def test_mixed_rows_get_a_generation_prompt_that_opens_both_kinds() -> None:
    """Nemotron's opens reasoning with a line break, and its rows without reasoning have none in the empty block."""
    renderer = trl("nemotron_3_nano", thinking=True)
    assert renderer.describe()["generation_prompt_cut"] == "\n"
    assert supervised_text(renderer, THOUGHT) == ["\nbecause\n</think>\na<|im_end|>"]
    assert supervised_text(renderer, talk("q", "a")) == ["</think>a<|im_end|>"]


def test_texts_may_speak_of_the_tags_themselves() -> None:
    renderer = trl("qwen3_5_think")
    assert "<think>" in renderer.prompt_text([Message("user", "q")]), "the template must write the tag itself"
    example = talk("what does <think> do?", "the tag <think> opens reasoning")
    assert supervised_text(renderer, example) == ["the tag <think> opens reasoning<|im_end|>"]


def test_a_keyword_that_changes_nothing_is_not_given() -> None:
    """So that programs which do not give it render the same."""
    assert "enable_thinking" in TRL["qwen3_5_nothink"]
    assert trl("qwen3_5_nothink").describe()["keywords"] == {}
    assert trl("qwen3_5_nothink", thinking=True).describe()["keywords"] == {"enable_thinking": True}


# --- nothing is lost silently -----------------------------------------------------------------------------------------


def test_a_dropped_message_is_found_even_where_its_text_occurs_elsewhere() -> None:
    renderer = custom(HEAD + "{% if m.role != 'system' or loop.first %}" + TURN + "{% endif %}" + TAIL)
    late = (Message("user", "a cat"), Message("system", "a"), Message("user", "a dog"))
    with pytest.raises(TemplateError, match=r"drops or alters the system message \(message 2\)"):
        renderer.render(Example((*late, Message("assistant", "a bird", supervised=True))))
    with pytest.raises(TemplateError, match="drops or alters the system message"):
        renderer.prompt(late)


def test_altered_text_is_refused_but_white_space_at_the_ends_may_go() -> None:
    renderer = custom(HEAD + TURN.replace("m.content", "m.content | trim | replace('secret', '***')") + TAIL)
    assert renderer.render(talk("  q \n", " a "))
    with pytest.raises(TemplateError, match=r"drops or alters the user message \(message 1\)"):
        renderer.render(talk("my secret", "a"))
    with pytest.raises(TemplateError, match=r"drops or alters the assistant's content \(message 2\)"):
        renderer.render(talk("q", "a secret"))


def test_a_system_message_that_the_template_refuses_opens_the_first_user_message() -> None:
    renderer = trl("gemma")
    example = Example((Message("system", "rule"), *talk("q", "a").messages))
    assert renderer.prompt_text(example.messages[:2]) == (
        "<bos><start_of_turn>user\nrule\n\nq<end_of_turn>\n<start_of_turn>model\n"
    )
    assert supervised_text(renderer, example) == ["a<end_of_turn>"]
    assert any("system message" in note for note in renderer.describe()["notes"])


def test_the_templates_own_words_reach_the_user() -> None:
    with pytest.raises(TemplateError, match="Conversation roles must alternate user/assistant"):
        trl("gemma").render(Example((Message("user", "q"), *talk("q", "a").messages)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }", "cannot render a question and its answer: the chat template refuses"),
        ("nothing at all", "cannot render a question and its answer: it drops the messages"),
        (
            HEAD + TURN + "{% endfor %}{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}",
            "generation prompt is not how its training rows begin",
        ),
    ],
)
def test_templates_that_cannot_serve_are_refused_at_once(template: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        custom(template)


def test_a_tokenizer_without_template_is_told_of_the_fallback() -> None:
    with pytest.raises(TemplateError) as caught:
        Renderer(small_tokenizer(None, eos="</s>"))
    assert "ensure_chat_template" in (caught.value.remedy or "")


def test_two_beginnings_of_sequence_are_refused() -> None:
    template = "{{ bos_token }}{{ bos_token }}" + HEAD + TURN + TAIL
    renderer = Renderer(small_tokenizer(template, bos="<s>", eos="<|im_end|>"))
    with pytest.raises(TemplateError, match="two beginning-of-sequence tokens"):
        renderer.render(talk("q", "a"))


# --- tool calls -------------------------------------------------------------------------------------------------------


def test_arguments_are_never_json_within_json() -> None:
    text = supervised_text(trl("qwen2_5"), calling({"city": 'Z"ü\n', "days": [1, {"a": None}]}))[0]
    printed = text.split("<tool_call>\n")[1].split("\n</tool_call>")[0]
    assert json.loads(printed) == {"name": "weather", "arguments": {"city": 'Z"ü\n', "days": [1, {"a": None}]}}


def test_templates_that_want_arguments_as_text_get_text() -> None:
    renderer = trl("deepseekv3")
    assert renderer.describe()["message_form"]["arguments"] == "json"
    example = Example(calling({"city": "Rome"}).messages)
    assert supervised_text(renderer, example)[0].count('{"city": "Rome"}') == 1


def test_arguments_printed_as_python_are_refused_nested_ones_alone_where_only_those_are() -> None:
    body = "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}"
    tools = "{% if tools %}{{ tools | tojson }}{% endif %}"
    renderer = custom(tools + HEAD + TURN.replace("{{ m.content }}", body) + TAIL)
    # As text the arguments come out as JSON, so that form is chosen.
    assert renderer.describe()["message_form"]["arguments"] == "json"
    mapping_only = body.replace("c.function.arguments }}", "c.function.arguments.items() | list | first | last }}")
    renderer = custom(tools + HEAD + TURN.replace("{{ m.content }}", mapping_only) + TAIL)
    with pytest.raises(TemplateError, match="drops or alters the assistant's tool call"):
        renderer.render(calling({"city": "Rome"}))
    lfm = trl("lfm2_2_5")
    assert "weather(city='Rome')" in supervised_text(lfm, calling({"city": "Rome"}))[0]
    with pytest.raises(TemplateError, match="drops or alters the assistant's tool call"):
        lfm.render(calling({"cities": [{"name": "Rome"}]}))


def test_a_template_that_can_print_calls_only_as_python_says_so() -> None:
    body = "{{ m.content }}{% for c in m.tool_calls or [] %}{{ dict(c.function.arguments.items()) }}{% endfor %}"
    renderer = custom(HEAD + TURN.replace("{{ m.content }}", body) + TAIL)
    with pytest.raises(TemplateError, match="as a Python dictionary, not as JSON"):
        renderer.render(calling({"city": "Rome"}))
    assert renderer.render(talk("q", "a"))


def test_results_are_linked_to_their_calls_by_id_or_by_order() -> None:
    assert "response:weather{" in "".join(text for text, _ in trl("gemma4_v5").segments(calling({"city": "Rome"})))
    first, second = ToolCall("alpha", {"x": 1}, "id-a"), ToolCall("beta", {"x": 2}, "id-b")
    example = Example(
        (
            Message("user", "q"),
            Message("assistant", "", supervised=True, tool_calls=(first, second)),
            Message("tool", "from-beta", tool_call_id="id-b"),
            Message("tool", "from-alpha", tool_call_id="id-a"),
            Message("assistant", "done", supervised=True),
        )
    )
    text = "".join(text for text, _ in trl("gemma4_v5").segments(example))
    assert 'response:beta{value:<|"|>from-beta' in text
    assert 'response:alpha{value:<|"|>from-alpha' in text


def test_results_without_names_get_those_of_their_calls() -> None:
    calls = (ToolCall("alpha", {}, "id-a"), ToolCall("beta", {}))
    first, second = Message("assistant", "", tool_calls=calls), Message("assistant", "", tool_calls=calls[1:])
    results = [
        Message("tool", "3"),
        Message("tool", "1", tool_call_id="id-a"),
        Message("tool", "2"),
        Message("tool", "?"),
    ]
    written = message_dicts([first, *results[1:3], second, results[0], results[3]], MessageForm())
    assert [(m["tool_call_id"], m["name"]) for m in written if m["role"] == "tool" and "name" in m] == [
        ("id-a", "alpha"),
        ("call00002", "beta"),
        ("call00003", "beta"),
    ]
    assert "name" not in written[-1], "a result to no call is left to the template"


MISTRAL_LIKE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% if loop.last and messages[0].role == 'system' %}"
    "[INST]{{ messages[0].content }}\n\n{{ m.content }}[/INST]{% else %}[INST]{{ m.content }}[/INST]{% endif %}"
    "{% elif m.tool_calls %}[TOOL_CALLS]{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids must have length 9') }}{% endif %}"
    "{{ c.function | tojson }}{{ c.id }}{% endfor %}{{ eos_token }}"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}{{ m.tool_call_id }}[/TOOL_RESULTS]{% endif %}{% endfor %}"
)


def test_templates_that_show_the_system_message_only_while_a_question_is_open_and_want_short_ids() -> None:
    """Mistral's way: without care the row would lack the system message that the prompt has."""
    renderer = Renderer(family_tokenizer("mistral_like", MISTRAL_LIKE))
    example = Example((Message("system", "rule"), *talk("q", "a", "r", "b").messages))
    (sequence,) = renderer.render(example).sequences
    assert renderer.prompt_text(example.messages[:2]) == "<s>[INST]rule\n\nq[/INST]"
    assert sequence.ids[: len(renderer.prompt(example.messages[:2]))] == renderer.prompt(example.messages[:2])
    called = Example(calling({"city": "Rome"}, id="call_a_long_id_of_some_service").messages)
    assert supervised_text(renderer, called)[0] == (
        '[TOOL_CALLS]{"name": "weather", "arguments": {"city": "Rome"}}call00001</s>'
    )
