"""Hypothesis strategies of valid examples, for the tests of this layer."""

from __future__ import annotations

from hypothesis import strategies as st

from hone.types import Example, Message, ToolCall

__all__ = ["chat", "examples"]

_texts = st.text(max_size=12)
_answers = st.text(min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
_names = st.text(min_size=1, max_size=6)
_calls = st.builds(ToolCall, _names, st.dictionaries(_texts, st.integers() | _texts, max_size=2), st.none() | _names)
_assistants = st.builds(
    Message,
    role=st.just("assistant"),
    content=_answers,
    supervised=st.booleans(),
    reasoning=st.none() | _names,
    tool_calls=st.lists(_calls, max_size=1).map(tuple),
)
_others = st.builds(Message, role=st.sampled_from(["system", "user"]), content=_texts)
_tools = st.builds(lambda name: {"type": "function", "function": {"name": name}}, _names)


def chat(prompt: str, answer: str = "a", *, system: str | None = None, row: int = 0) -> Example:
    """A conversation of one question and one answer."""
    before = (Message("system", system),) if system is not None else ()
    messages = (*before, Message("user", prompt), Message("assistant", answer, supervised=True))
    return Example(messages, row=row, line=row, source="rows.jsonl")


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Any example: at least one turn before the last, which is the assistant's and supervised."""
    turns = draw(st.lists(_others | _assistants, max_size=3))
    last = Message("assistant", draw(_answers), supervised=True)
    return Example((draw(_others), *turns, last), tools=tuple(draw(st.lists(_tools, max_size=2))))
