"""The chat template given to models that have none."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from hone.data.render import Renderer, ensure_chat_template
from hone.errors import TemplateError
from hone.types import Example, Message, ToolCall
from tests.data.chat_tokenizers import CHATML, small_tokenizer

TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}
CALL = ToolCall("weather", {"city": 'Z"ü', "days": [{"n": 2}]})
EXAMPLE = Example(
    (
        Message("system", "rule"),
        Message("user", "one"),
        Message("assistant", "let me see", supervised=True, tool_calls=(CALL, CALL)),
        Message("tool", "sunny"),
        Message("assistant", "two", supervised=True, reasoning="because"),
        Message("user", "three"),
        Message("assistant", "four", supervised=True),
    ),
    (TOOL,),
)


def chatml_vocabulary() -> PreTrainedTokenizerFast:
    return small_tokenizer(None, eos="<|endoftext|>", further=("<|im_start|>", "<|im_end|>"))


def plain_vocabulary() -> PreTrainedTokenizerFast:
    """A tokenizer without any chat tokens, which begins every text with <s>."""
    tokenizer = small_tokenizer(None, bos="<s>", eos="</s>")
    bos = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return tokenizer


def test_a_template_that_is_there_is_left_as_it_is() -> None:
    tokenizer = small_tokenizer(CHATML, eos="<|im_end|>")
    assert ensure_chat_template(tokenizer) is None
    assert tokenizer.chat_template == CHATML


def test_chatml_where_the_vocabulary_has_its_tokens() -> None:
    tokenizer = chatml_vocabulary()
    size = len(tokenizer)
    assert "ChatML" in (ensure_chat_template(tokenizer) or "")
    assert len(tokenizer) == size, "no token is added"
    renderer = Renderer(tokenizer)
    assert renderer.prompt_text(EXAMPLE.messages[:2]) == (
        "<|im_start|>system\nrule<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    )
    assert renderer.describe()["stop_tokens"] == ["<|endoftext|>", "<|im_end|>"]


def test_plain_headers_with_the_tokenizers_own_beginning_and_end_elsewhere() -> None:
    tokenizer = plain_vocabulary()
    assert "### User:" in (ensure_chat_template(tokenizer) or "")
    renderer = Renderer(tokenizer)
    assert renderer.prompt_text(EXAMPLE.messages[:2]) == ("<s>### System:\nrule\n\n### User:\none\n\n### Assistant:\n")
    assert renderer.prompt([Message("user", "q")]).count(tokenizer.bos_token_id) == 1
    assert renderer.describe()["stop_tokens"] == ["</s>"]


@pytest.mark.parametrize(("make", "end"), [(chatml_vocabulary, "<|im_end|>"), (plain_vocabulary, "</s>")])
def test_system_tools_calls_reasoning_and_several_turns_in_one_sequence(make, end: str) -> None:
    tokenizer = make()
    ensure_chat_template(tokenizer)
    renderer = Renderer(tokenizer)
    (sequence,) = renderer.render(EXAMPLE).sequences
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Z\\"ü", "days": [{"n": 2}]}}\n</tool_call>'
    assert [text for text, supervised in renderer.segments(EXAMPLE) if supervised] == [
        f"let me see\n{call}\n{call}{end}",
        f"<think>\nbecause\n</think>\n\ntwo{end}",
        f"four{end}",
    ]
    prompt = renderer.prompt(EXAMPLE.messages[:4], EXAMPLE.tools)
    assert sequence.ids[: len(prompt)] == prompt
    assert '"name": "weather", "description": "of a city"' in renderer.prompt_text(EXAMPLE.messages[:4], EXAMPLE.tools)


def test_without_any_end_token_there_is_no_fallback() -> None:
    with pytest.raises(TemplateError, match="neither a chat template nor an end-of-sequence token"):
        ensure_chat_template(small_tokenizer(None))
