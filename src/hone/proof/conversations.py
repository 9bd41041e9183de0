"""The eight conversations of the probe: short, general, and each with something that a template can get wrong."""

from __future__ import annotations

from hone.types import Example, Message, ToolCall

__all__ = ["PROBE_CONVERSATIONS"]

_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}


def _user(text: str) -> Message:
    return Message("user", text)


def _answer(text: str) -> Message:
    return Message("assistant", text, supervised=True)


PROBE_CONVERSATIONS: tuple[tuple[str, Example], ...] = (
    ("question", Example((_user("What is the capital of France?"), _answer("Paris.")))),
    ("system", Example((Message("system", "Answer in one word."), _user("Is ice cold?"), _answer("Yes, it is.")))),
    ("turns", Example((_user("Add 2 and 3."), _answer("5"), _user("And 4 more?"), _answer("That is 9.")))),
    (
        "system and turns",
        Example(
            (Message("system", "Be brief."), _user("Hello"), _answer("Hi."), _user("Name a river."), _answer("Nile."))
        ),
    ),
    ("tools", Example((_user("Say hello."), _answer("Hello there.")), tools=(_WEATHER,))),
    (
        "tool call",
        Example(
            (
                _user("Is it raining in Oslo?"),
                Message("assistant", "", tool_calls=(ToolCall("weather", {"town": "Oslo"}, id="call00001"),)),
                Message("tool", "rain", tool_call_id="call00001", name="weather"),
                _answer("Yes, it rains."),
            ),
            tools=(_WEATHER,),
        ),
    ),
    ("unicode", Example((_user("Übersetze: 猫 и кот 🐈, naïve"), _answer("Katze – «кот» ✓")))),
    (
        "code",
        Example((_user('def f(x):\n    return {"a": [x]}\n\nwhat is f(1)?'), _answer('```json\n{"a": [1]}\n```'))),
    ),
)
