"""Mutated files: no traceback, no hang, no row lost, and none accepted that training would read otherwise.

500 files in every run of the tests; 10,000 with ``HONE_MUTATIONS=10000 pytest tests/data/audit/test_mutations.py``.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from hone.data.audit.audit import audit_source
from hone.data.audit.judge import Judge
from hone.data.audit.reading import judged_rows
from hone.data.audit.repair import repair_file
from hone.data.audit.report import AuditReport
from hone.data.faults import FAULTS
from hone.data.loader import load_examples
from hone.data.rows import text_encoding
from hone.data.source import source_kind
from hone.errors import DataError
from hone.types import Message
from tests.data.audit.mutations import mutated, valid_files

COUNT = int(os.environ.get("HONE_MUTATIONS", "500"))
PARTS = 10
MOST_SECONDS = 20


def independent_reading(line: bytes) -> list[tuple[str, str]] | None:
    """(role, text) of a line's turns, by a reader that shares no code with hone's; None where it has no opinion."""
    row: Any = json.loads(line.decode("utf-8-sig"))
    roles = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
    turns = row.get("messages") if "messages" in row else row.get("conversations")
    if turns is None:
        if "prompt" not in row or "completion" not in row or isinstance(row["prompt"], list):
            return None
        return [("user", row["prompt"]), ("assistant", row["completion"])]
    if not isinstance(turns, list) or "system" in row:
        return None
    read = []
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        text = turn.get("content", turn.get("value"))
        if role not in roles or not isinstance(text, str):
            return None
        read.append((roles[role], text))
    while read and read[-1][0] != "assistant":
        read.pop()
    return read


def check_against_training(path: Path, report: AuditReport) -> None:
    """The audit's verdicts are those of the reader behind training, and what is accepted is read as it stands."""
    hard = [fault.code for fault in report.faults if fault.severity == "refused"]
    try:
        loaded = load_examples(str(path), preferences=True)
    except DataError:
        assert hard, f"training refuses {path}, the audit does not"
        return
    assert not hard, f"the audit refuses {path} ({hard}), training does not"
    counts = loaded.ledger.summary()
    assert (report.rows, report.kept, report.cut, report.dropped) == tuple(
        counts[name] for name in ("rows", "kept", "cut", "dropped")
    )
    verdicts = [row.judged.status for row in judged_rows(str(path), Judge(), lambda fault: None)]
    assert verdicts == [entry.status for entry in loaded.ledger.entries()]
    content = path.read_bytes()
    if loaded.are_preferences or path.suffix != ".jsonl" or text_encoding(content[:4]) is not None:
        return
    lines = content.split(b"\n")
    if sum(bool(line.strip()) for line in lines) != report.rows:
        return  # one document over several lines
    for example in loaded.examples:
        expected = independent_reading(lines[example.line - 1])
        if expected is not None:
            assert [(m.role, m.content) for m in example.messages] == expected
            assert all(isinstance(m, Message) for m in example.messages)


def check_shuffled(path: Path, rng: random.Random) -> None:
    """The same lines in another order have the same verdicts."""

    def verdicts(content: bytes) -> list[tuple[bytes, str]] | None:
        path.write_bytes(content)
        try:
            if source_kind(path) != "json_lines":
                return None  # one object over the first lines: another kind of file
        except DataError:
            return None
        rows = judged_rows(str(path), Judge(), lambda fault: None)
        return sorted((row.raw or b"", row.judged.status) for row in rows)

    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    before = verdicts(b"\n".join(lines) + b"\n")
    rng.shuffle(lines)
    after = verdicts(b"\n".join(lines) + b"\n")
    assert before is None or after is None or after == before


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_files(part: int, tmp_path: Path) -> None:
    files = valid_files()
    for number in range(part, COUNT, PARTS):
        rng = random.Random(number)
        name = rng.choice(sorted(files))
        path = tmp_path / name
        path.write_bytes(mutated(files[name], rng))
        begun = time.process_time()
        report = audit_source(str(path), allow_few_rows=True)
        assert report.kept + report.cut + report.dropped == report.rows
        assert all(fault.line >= 0 and fault.message and fault.remedy for fault in report.faults)
        json.dumps(report.to_json(), allow_nan=False, ensure_ascii=True)
        check_against_training(path, report)
        if not report.refused and (number < 200 or number % 4 == 0):  # three fsyncs each
            repair_file(str(path), tmp_path / "fixed.out", report)
            again = audit_source(str(tmp_path / "fixed.out"), allow_few_rows=True)
            assert (again.rows, again.dropped) == (report.kept + report.cut, 0)
        if not report.refused and path.suffix == ".jsonl" and text_encoding(path.read_bytes()[:4]) is None:
            check_shuffled(path, rng)
        assert time.process_time() - begun < MOST_SECONDS, number


def test_the_unmutated_files_are_clean(tmp_path: Path) -> None:
    for name, content in valid_files().items():
        path = tmp_path / name
        path.write_bytes(content)
        report = audit_source(str(path))
        assert (report.rows, report.kept) == (12, 12), name
        serious = [fault for fault in report.faults if FAULTS[fault.code].severity in ("error", "refused")]
        assert not serious, serious


def test_mutations_reach_every_kind_of_verdict(tmp_path: Path) -> None:
    files = valid_files()
    codes: set[str] = set()
    for number in range(400):
        rng = random.Random(number)
        name = rng.choice(sorted(files))
        path = tmp_path / name
        path.write_bytes(mutated(files[name], rng))
        codes |= set(audit_source(str(path), allow_few_rows=True).totals)
    assert len({code for code in codes if FAULTS[code].severity == "error"}) >= 15
    assert len({code for code in codes if FAULTS[code].severity == "refused"}) >= 4
