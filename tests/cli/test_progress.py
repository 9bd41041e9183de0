"""Progress: bars on a terminal, few plain lines elsewhere, and the chosen numbers as a block with their reasons."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import pytest
from rich.console import Console

from hone.cli.output import console, harmless, paragraph
from hone.cli.progress import ProgressRecorder
from hone.engine.events import Event


def _step(number: int, total: int = 200) -> Event:
    data = {"step": number, "total_steps": total, "loss": 2.5 / number, "tokens": 100}
    return Event("step", data, {"seconds": 0.5, "tokens_per_second": 200.0, "seconds_left": 65.0})


def _choice(name: str, value: str, reason: str) -> Event:
    return Event("note", {"text": "unused", "choice": name, "value": value, "reason": reason})


def _printed(events: Iterable[Event]) -> str:
    stream = io.StringIO()
    recorder = ProgressRecorder(console(stream))
    for event in events:
        recorder.record(event)
    recorder.close()
    return stream.getvalue()


def test_away_from_a_terminal_there_is_a_line_each_tenth() -> None:
    text = _printed(_step(number) for number in range(1, 201))
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[0].split() == ["step", "1/200", "loss", "2.500", "200", "tok/s", "1:05", "left"]
    assert lines[-1].split()[:2] == ["step", "200/200"]


def test_a_validation_is_a_line_and_stands_beside_the_loss() -> None:
    text = _printed([Event("validation", {"step": 8, "loss": 1.25, "best": True}), _step(9)])
    assert "validation loss 1.250 after step 8, kept so far" in text
    assert "val 1.250" in text


def test_other_work_is_a_line_when_it_is_done() -> None:
    events = [Event("progress", {"task": "base: answers", "done": done, "total": 4}) for done in (1, 2, 3, 4)]
    assert _printed(events).split() == ["base:", "answers", "4/4"]


def test_choices_are_one_block_with_their_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    reason = "for 24 rows; the last within 20% of the lowest validation loss is kept"
    text = _printed(
        [_choice("rank", "16", "enough"), _choice("epochs", "6", reason), Event("stage", {"name": "proof"})]
    )
    lines = text.splitlines()
    assert lines[0] == "            rank    16  enough"
    assert lines[1].startswith("            epochs  6   for 24 rows;")
    assert max(map(len, lines)) <= 60
    assert " ".join(text.split()).endswith(f"{reason} proof")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    stream = io.StringIO()
    recorder = ProgressRecorder(Console(file=stream, force_terminal=True, width=80, soft_wrap=True))
    for event in (_step(1), Event("validation", {"step": 1, "loss": 1.25, "best": True}), _step(200)):
        recorder.record(event)
    recorder.close()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).split("\r")[-1]
    assert last.split()[0] == "step"
    assert "200/200" in last
    assert "val 1.250" in last
    assert len(last.rstrip("\n")) <= 80


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for value, coloured in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        stream = io.StringIO()
        console(stream).print("x", style="bold red")
        assert ("\x1b" in stream.getvalue()) is coloured


def test_text_that_a_terminal_would_obey_is_replaced() -> None:
    assert harmless("a\x1b[31mb\u202ec\x07\td\ne") == "a\ufffd[31mb\ufffdc\ufffd\td\ne"


def test_a_path_is_never_broken() -> None:
    path = "/a/" + "very-" * 20 + "long/path"
    assert path in paragraph(f"it is in {path} now", columns=40, first="    ")


def test_cut_text_says_so() -> None:
    lines = paragraph("word " * 100, columns=40, most_lines=2).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("…")
