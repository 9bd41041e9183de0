"""The schema of preferences: a prompt with a chosen and a rejected answer, in the shapes that public sets have.

    prompt, chosen, rejected     texts, or lists of turns
    chosen, rejected             conversations that share all but their last turn, as turns or as Anthropic's text

Source: Anthropic's hh-rlhf ("\\n\\nHuman: ... \\n\\nAssistant: ..."); TRL's dataset formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.data.audit.schema import RowReading, read_turns
from hone.data.messages import kind

__all__ = ["ASSISTANT_MARK", "read_preference", "split_transcript"]

ASSISTANT_MARK = "\n\nAssistant:"


def read_preference(reading: RowReading, value: Mapping[str, Any]) -> tuple[str, str]:
    """Check a preference row.

    Returns:
        The prompt and the chosen answer as text, as far as they could be read.
    """
    prompt = _side(reading, value, "prompt") if "prompt" in value else None
    chosen, rejected = (_side(reading, value, key) for key in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return prompt or "", ""
    if chosen == rejected:
        reading.add("equal_sides", "chosen and rejected are the same", "rejected")
    asked = [chosen, rejected]
    if prompt is None:
        asked = [split_transcript(side)[0] for side in asked]
        if asked[0] != asked[1]:
            reading.add("prompts_differ", "chosen and rejected answer different prompts", "rejected")
        if not asked[0].strip():
            reading.add("no_prompt", "nothing stands before the answers", "chosen")
        return asked[0], split_transcript(chosen)[1]
    if not prompt.strip():
        reading.add("empty_prompt", "prompt is empty", "prompt")
    return prompt, chosen


def split_transcript(text: str) -> tuple[str, str]:
    """The prompt and the last answer of a conversation as text."""
    before, mark, answer = text.rpartition(ASSISTANT_MARK)
    return (before + mark, answer.strip()) if mark else ("", text)


def _side(reading: RowReading, value: Mapping[str, Any], key: str) -> str | None:
    """One side as text: turns are written as a transcript, so that both shapes are compared alike."""
    side = value[key]
    if isinstance(side, list):
        before = len(reading.texts)
        read_turns(reading, side, key)
        turns = reading.texts[before:]
        if key != "prompt" and (not turns or turns[-1][1] != "assistant"):
            reading.add("no_assistant", f"{key} does not end with a turn of the assistant", key)
        names = {"assistant": ASSISTANT_MARK, "user": "\n\nHuman:"}
        return "".join(f"{names.get(role, role)} {text}" for _, role, text in turns)
    if not isinstance(side, str):
        reading.add("bad_content", f"{key} is {kind(side)}, not text", key)
        return None
    reading.texts.append((f"/{key}", "user" if key == "prompt" else "assistant", side))
    if not split_transcript(side)[1].strip() and key != "prompt":
        reading.add("empty_assistant", f"{key} is empty", key)
    return side
