"""Renderers for tests: over a ChatML tokenizer, over TRL's templates, over templates made up on the spot."""

from __future__ import annotations

from hone.data.render import Renderer
from hone.types import Example, Message, ToolCall
from tests.data.chat_tokenizers import CHATML, family_tokenizer, small_tokenizer, trl_templates

TRL = trl_templates()
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}

# A ChatML template in three pieces, for variations.
HEAD = "{% for m in messages %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
TAIL = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(**arguments) -> Renderer:
    return Renderer(small_tokenizer(CHATML, eos="<|im_end|>"), **arguments)


def trl(name: str, **arguments) -> Renderer:
    return Renderer(family_tokenizer(name, TRL[name]), **arguments)


def talk(*texts: str, **fields) -> Example:
    """User and assistant in turn; every answer supervised."""
    turns = [
        Message("assistant", text, supervised=True) if number % 2 else Message("user", text)
        for number, text in enumerate(texts)
    ]
    return Example(tuple(turns), **fields)


def supervised_text(renderer: Renderer, example: Example) -> list[str]:
    return [text for text, supervised in renderer.segments(example) if supervised]


def custom(template: str, **arguments) -> Renderer:
    return Renderer(small_tokenizer(template, eos="<|im_end|>"), **arguments)


def calling(arguments: dict, **fields) -> Example:
    call = ToolCall("weather", arguments, **fields)
    return Example(
        (
            Message("user", "q"),
            Message("assistant", "", supervised=True, tool_calls=(call,)),
            Message("tool", "sunny", tool_call_id=fields.get("id")),
            Message("assistant", "It is sunny.", supervised=True),
        ),
        (TOOL,),
    )


def stop_texts(renderer: Renderer) -> list[str]:
    return renderer.describe()["stop_tokens"]
