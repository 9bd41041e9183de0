"""Ollama's templates: the texts around messages are found by rendering, and what they cannot express is refused."""

from __future__ import annotations

import re

import pytest

from hone.data.go_template import TurnTexts, find_turn_texts
from hone.data.render import Renderer
from hone.errors import TemplateError
from hone.types import Message
from tests.data.chat_tokenizers import family_tokenizer, small_tokenizer, trl_templates

TEMPLATES = trl_templates()
USER, SYSTEM = Message("user", "What is 2?"), Message("system", "Be brief.")
LONGER = [
    USER,
    Message("assistant", "Two."),
    Message("user", "And 3?"),
    Message("assistant", "3"),
    Message("user", "4?"),
]
# Not the conversations that find_turn_texts tries.
NEW = [[USER], [SYSTEM, USER], LONGER, [SYSTEM, *LONGER]]


def found(name: str) -> tuple[Renderer, TurnTexts]:
    renderer = Renderer(family_tokenizer(name, TEMPLATES[name]))
    tried = [("one", [Message("user", "Hello")]), ("two", [Message("system", "Hm."), Message("user", "Hello")])]
    end = renderer.token_text(renderer.stop_ids[0])
    return renderer, find_turn_texts(renderer.prompt_text, tried, turn_end=end)


def run_go(template: str, messages: list[Message], default_system: str | None) -> str:
    """What Go's text/template gives for the forms that are written: a range over messages and a choice by role.

    As Ollama does, the Modelfile's SYSTEM becomes the first message where a conversation has none.
    """
    if default_system and messages[0].role != "system":
        messages = [Message("system", default_system), *messages]
    before, middle, after = re.fullmatch(
        r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.S
    ).groups()  # type: ignore[union-attr]
    unless = re.search(r"\{\{ if not \.System \}\}(.*?)\{\{ end \}\}", before, re.S)
    if unless:
        before = before.replace(unless[0], "" if messages[0].role == "system" else unless[1])
    branches = dict(re.findall(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if|\Z)', middle, re.S))
    turns = (branches[one.role].replace("{{ .Content }}", one.content) for one in messages)
    return f"{before}{''.join(turns)}{after}"


@pytest.mark.parametrize("name", ["llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_instruct_2507"])
def test_the_go_template_gives_the_prompts_that_hone_gives(name: str) -> None:
    renderer, texts = found(name)
    for messages in NEW:
        assert run_go(texts.go_template(), list(messages), texts.default_system) == renderer.prompt_text(messages)
        assert texts.render(messages) == renderer.prompt_text(messages)


def test_qwens_own_system_message_is_found() -> None:
    _, texts = found("qwen2_5")
    assert texts.default_system == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert texts.go_template().startswith('{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n')


@pytest.mark.parametrize("name", ["gemma", "cohere2", "phi3"])
def test_a_template_that_does_more_is_refused(name: str) -> None:
    with pytest.raises(TemplateError, match="conversation 'two'"):
        found(name)


def test_gos_own_signs_are_refused() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + ' {{\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant {{\n' }}{% endif %}"
    )
    renderer = Renderer(small_tokenizer(template, eos="<|im_end|>"))
    with pytest.raises(TemplateError, match="Go's own"):
        find_turn_texts(renderer.prompt_text, [], turn_end="<|im_end|>")


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "qwen2_5"])
def test_the_portable_template_renders_as_hone_does(name: str) -> None:
    """Keywords (Qwen3's thinking) and the date (Llama 3.1's) are written into it."""
    tokenizer = family_tokenizer(name, TEMPLATES[name])
    renderer = Renderer(tokenizer)
    for messages in NEW:
        turns = [{"role": one.role, "content": one.content} for one in messages]
        template = renderer.portable_template()
        text = tokenizer.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, tokenize=False)
        assert text == renderer.prompt_text(messages)
