"""The faults of preference rows, each with its pointer; what the rows must be stands in ``data/preferences.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.data.audit.schema import RowReading, read_turns
from hone.data.detection import PREFERENCE
from hone.data.faults import FAULTS
from hone.data.ledger import RowError
from hone.data.messages import kind
from hone.data.preferences import parse_preference
from hone.types import Preference

__all__ = ["ASSISTANT_MARK", "read_preference", "split_transcript"]

ASSISTANT_MARK = "\n\nAssistant:"


def read_preference(reading: RowReading, value: Mapping[str, Any], format_name: str) -> Preference | None:
    """Check a preference row, and read it as training does, whose verdict is the one that counts.

    Returns:
        The preference; None where it cannot be used, with its faults noted.
    """
    if format_name == PREFERENCE:
        _read_sides(reading, value)
    try:
        preference = parse_preference(value, format_name)
    except RowError as error:
        if not any(FAULTS[code].severity == "error" for code, _, _ in reading.findings):
            reading.add(error.code, error.reason)
        return None
    if format_name != PREFERENCE:
        texts = [*preference.prompt, *preference.answers]
        reading.texts += [("", message.role, message.content) for message in texts]
    return preference


def _read_sides(reading: RowReading, value: Mapping[str, Any]) -> None:
    """Every fault of chosen and rejected, with its pointer."""
    prompt = _side(reading, value, "prompt") if "prompt" in value else None
    chosen, rejected = (_side(reading, value, key) for key in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return
    if chosen == rejected:
        reading.add("equal_sides", "chosen and rejected are the same", "rejected")
    asked = [chosen, rejected]
    if prompt is None:
        asked = [split_transcript(side)[0] for side in asked]
        if asked[0] != asked[1]:
            reading.add("prompts_differ", "chosen and rejected answer different prompts", "rejected")
        if not asked[0].strip():
            reading.add("no_prompt", "nothing stands before the answers", "chosen")
    elif not prompt.strip():
        reading.add("empty_prompt", "prompt is empty", "prompt")


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
