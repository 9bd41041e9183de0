"""``--fix``: a copy of a file that needs no reading between the lines, and everything that was left out of it.

Three files are written: the usable rows as JSON lines, the rejected rows as they stood, and the ledger. A row that is
plain already keeps its bytes, so that repairing a repaired file changes nothing. The original is never written to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hone.data.audit.judge import Judge
from hone.data.audit.reading import JudgedRow, judged_rows
from hone.data.audit.report import AuditReport
from hone.data.audit.secrets import Redactor
from hone.data.detection import LABEL, FormatMapping
from hone.data.faults import FAULTS
from hone.data.ledger import LedgerEntry
from hone.data.messages import PLAIN_ROLES, role_named
from hone.data.row_files import atomic_stream
from hone.errors import ConfigError
from hone.types import JsonDict

__all__ = ["Repair", "ledger_entry", "repair_file", "repair_paths"]

_COPIED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Repair:
    """What was written.

    Args:
        data: the usable rows, as JSON lines.
        quarantine: the rejected rows, as they stood.
        ledger: what became of every row.
        written: rows in ``data``.
        quarantined: rows in ``quarantine``.
        changed: rows of ``data`` that were written anew (redacted, another word for a role, not JSON lines before).
        redacted: values replaced by placeholders, by kind.
    """

    data: Path
    quarantine: Path
    ledger: Path
    written: int
    quarantined: int
    changed: int
    redacted: dict[str, int]

    def to_json(self) -> JsonDict:
        """All fields, with paths as text."""
        return {**asdict(self), "data": str(self.data), "quarantine": str(self.quarantine), "ledger": str(self.ledger)}


def repair_paths(out: Path) -> tuple[Path, Path, Path]:
    """The files beside ``out``: itself, the quarantine and the ledger."""
    stem = out.with_suffix("") if out.suffix else out
    return out, stem.with_name(f"{stem.name}.quarantine"), stem.with_name(f"{stem.name}.ledger.jsonl")


def repair_file(
    source: str, out: Path, report: AuditReport, *, mapping: Mapping[str, str] | None = None, redact: bool = False
) -> Repair:
    """Write the repaired copy of a source that was audited.

    Args:
        source: the file or hub data set.
        out: where the usable rows go.
        report: of the audit of ``source``, with the same mapping.
        mapping: columns that the user named.
        redact: whether secrets and personal data are replaced by placeholders.

    Raises:
        ConfigError: ``out`` is the source itself.
        StorageError: a file cannot be written; then none of the three is there.
        DataError: the source cannot be read any more.
    """
    paths = repair_paths(out)
    if any(path.exists() and Path(source).exists() and path.samefile(source) for path in paths):
        raise ConfigError("names the data file itself", where="--fix", remedy="name another file: the original is kept")
    columns = FormatMapping.from_pairs(mapping) if mapping is not None else None
    judge = Judge(columns, judged_answers=report.format == LABEL)
    redactor = Redactor() if redact else None
    counts = {"written": 0, "quarantined": 0, "changed": 0}
    with ExitStack() as stack:
        data, quarantine, ledger = (stack.enter_context(atomic_stream(path)) for path in paths)
        for row in judged_rows(source, judge, lambda fault: None):
            entry = ledger_entry(row, report)
            ledger.write(json.dumps(asdict(entry), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            if entry.status == "dropped":
                counts["quarantined"] += 1
                _write_original(row, source, quarantine)
                continue
            line, changed = _plain_line(row, redactor)
            counts["written"] += 1
            counts["changed"] += changed
            data.write(line + b"\n")
    return Repair(
        *paths,
        written=counts["written"],
        quarantined=counts["quarantined"],
        changed=counts["changed"],
        redacted=redactor.counts() if redactor else {},
    )


def ledger_entry(row: JudgedRow, report: AuditReport) -> LedgerEntry:
    """What became of a row, as the ledger has it."""
    number, line, _ = row.place
    late = report.late_drops.get(number)
    if late is not None:
        return LedgerEntry(number, line, "dropped", *late)
    findings = row.judged.findings
    if row.judged.status == "dropped":
        code, _, reason = next(one for one in findings if FAULTS[one[0]].severity == "error")
        return LedgerEntry(number, line, "dropped", code, reason)
    if row.judged.status == "cut":
        reason = next(message for code, _, message in findings if code == "trailing_turns")
        return LedgerEntry(number, line, "cut", None, reason)
    return LedgerEntry(number, line, "kept")


def _plain_line(row: JudgedRow, redactor: Redactor | None) -> tuple[bytes, bool]:
    """The row as a line of JSON, and whether that differs from how it stood."""
    codes = {code for code, _, _ in row.judged.findings}
    raw = row.raw
    is_line = raw is not None and row.value is None
    if is_line and "role_alias" not in codes and redactor is None:
        assert raw is not None
        return raw, False
    value: Any = row.value if row.value is not None else json.loads((raw or b"").decode("utf-8"))
    plain = _with_plain_roles(value) if "role_alias" in codes else value
    plain = _redacted(plain, redactor) if redactor is not None else plain
    if is_line and plain == value:
        assert raw is not None
        return raw, False
    return json.dumps(plain, ensure_ascii=False, default=str).encode("utf-8"), True


def _with_plain_roles(value: JsonDict) -> JsonDict:
    """With OpenAI's words for the roles of turns; lists of turns stand at the top level of a row."""

    def plain(turn: Any) -> Any:
        role = turn.get("role") if isinstance(turn, dict) else None
        if not isinstance(role, str) or role.strip().lower() in PLAIN_ROLES or turn.get("function_call"):
            return turn
        named = role_named(role)
        return turn if named is None else {**turn, "role": named}

    return {key: [plain(one) for one in item] if isinstance(item, list) else item for key, item in value.items()}


def _redacted(value: Any, redactor: Redactor) -> Any:
    """With the values in all texts replaced; keys stay, for they are the format's."""
    if isinstance(value, dict):
        return {key: _redacted(item, redactor) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, redactor) for item in value]
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("{", "["):
        # JSON within a text (arguments of a call) must stay JSON
        try:
            inner = json.loads(value)
        except ValueError:
            return redactor.redact(value)
        plain = _redacted(inner, redactor)
        return value if plain == inner else json.dumps(plain, ensure_ascii=False)
    return redactor.redact(value)


def _write_original(row: JudgedRow, source: str, quarantine: IO[bytes]) -> None:
    """The row as it stood, whatever its length."""
    if row.raw is not None:
        quarantine.write(row.raw.rstrip(b"\r\n") + b"\n")
        return
    if row.value is not None or row.place[2] is None:
        quarantine.write(json.dumps(row.value, ensure_ascii=False, default=str).encode("utf-8") + b"\n")
        return
    with Path(source).open("rb") as stream:
        stream.seek(row.place[2])
        while piece := stream.readline(_COPIED_BYTES):
            quarantine.write(piece)
            if piece.endswith(b"\n"):
                return
    quarantine.write(b"\n")
