"""``--fix``: nothing is lost, nothing plain is touched, and a second time changes nothing more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.data.audit.audit import audit_source
from hone.data.audit.repair import Repair, repair_file, repair_paths
from hone.data.audit.secrets import find_private
from hone.errors import ConfigError

FAULTY = (
    b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content":   "b"}]}\r\n'
    b"\n"
    b"{oops}\r\n"
    b'{"messages": [{"role": "human", "content": "c"}, {"role": "gpt", "content": "d"}], "x": 1.50}\n'
    b'{"messages": [{"role": "user", "content": "\xff"}]}\n'
    b'{"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "\xc3\xa9"}, '
    b'{"role": "user", "content": "g"}]}'
)


def repaired(folder: Path, content: bytes, name: str = "rows.jsonl", out: str = "fixed.jsonl", **more: bool) -> Repair:
    path = folder / name
    path.write_bytes(content)
    report = audit_source(str(path), allow_few_rows=True)
    done = repair_file(str(path), folder / out, report, **more)
    assert path.read_bytes() == content, "the original was touched"
    entries = [json.loads(line) for line in done.ledger.read_text(encoding="utf-8").splitlines()]
    assert len(entries) == report.rows == done.written + done.quarantined
    statuses = [entry["status"] for entry in entries]
    assert [statuses.count(name) for name in ("kept", "cut", "dropped")] == [report.kept, report.cut, report.dropped]
    return done


def test_plain_rows_keep_their_bytes_and_bad_ones_are_kept_apart(tmp_path: Path) -> None:
    done = repaired(tmp_path, FAULTY)
    lines = done.data.read_bytes().split(b"\n")
    original = FAULTY.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert lines[0] + b"\r" == original[0]
    assert json.loads(lines[1]) == {
        "messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
        "x": 1.5,
    }
    assert lines[2:] == [original[-1], b""]
    assert done.quarantine.read_bytes() == b'{oops}\n{"messages": [{"role": "user", "content": "\xff"}]}\n'
    assert (done.written, done.quarantined, done.changed) == (3, 2, 1)
    entries = [json.loads(line) for line in done.ledger.read_text(encoding="utf-8").splitlines()]
    assert [(entry["line"], entry["code"]) for entry in entries if entry["status"] == "dropped"] == [
        (3, "not_json"),
        (5, "invalid_utf8"),
    ]


@pytest.mark.parametrize("redact", [False, True])
def test_a_second_time_changes_nothing(tmp_path: Path, redact: bool) -> None:
    private = b'{"messages": [{"role": "user", "content": "jane@mail.org"}, {"role": "assistant", "content": "ok"}]}\n'
    first = repaired(tmp_path, private + FAULTY.removeprefix(b"\xef\xbb\xbf"), redact=redact)
    written = first.data.read_bytes()
    second = repaired(tmp_path, written, "fixed.jsonl", "again.jsonl", redact=redact)
    assert second.data.read_bytes() == written
    assert (second.changed, second.quarantined, second.quarantine.read_bytes()) == (0, 0, b"")
    codes = set(audit_source(str(second.data), allow_few_rows=True).totals)
    assert codes - {"personal_data", "unread_keys"} == {"trailing_turns"}
    assert ("personal_data" in codes) is not redact


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'[{"prompt": "a",\n "completion": "b"},\n {"prompt": "", "completion": "c"}]'),
        ("a.csv", b'prompt,completion\na,b\n"",c\n'),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "c"}\n'.encode("utf-16")),
    ],
)
def test_other_kinds_become_json_lines(tmp_path: Path, name: str, content: bytes) -> None:
    done = repaired(tmp_path, content, name)
    assert [json.loads(line) for line in done.data.read_bytes().splitlines()] == [{"prompt": "a", "completion": "b"}]
    assert b"c" in done.quarantine.read_bytes()
    assert not set(audit_source(str(done.data), allow_few_rows=True).totals)


def test_a_line_over_the_limit_is_quarantined_whole(tmp_path: Path) -> None:
    giant = b'{"prompt": "' + b"a" * (17 << 20) + b'"}\n'
    done = repaired(tmp_path, giant + b'{"prompt": "a", "completion": "b"}\n')
    assert done.quarantine.read_bytes() == giant


def test_one_value_has_one_placeholder_and_nothing_private_stays(tmp_path: Path) -> None:
    rows = [
        {"prompt": "I am jane.roe@mail.org, call +44 20 7946 0958", "completion": "Noted: Jane.Roe@mail.org"},
        {
            "prompt": "and john@mail.org or +442079460958",
            "completion": "jane.roe@mail.org",
            "note": "4111 1111 1111 1111",
        },
        {"prompt": "plain", "completion": "kept   as it is"},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = repaired(tmp_path, content, redact=True)
    written = [json.loads(line) for line in done.data.read_bytes().splitlines()]
    assert written[:2] == [
        {"prompt": "I am [EMAIL_1], call [PHONE_1]", "completion": "Noted: [EMAIL_1]"},
        {"prompt": "and [EMAIL_2] or [PHONE_1]", "completion": "[EMAIL_1]", "note": "[CARD_1]"},
    ]
    assert done.data.read_bytes().split(b"\n")[2] == content.split(b"\n")[2]
    assert done.redacted == {"CARD": 1, "EMAIL": 2, "PHONE": 1}
    assert not find_private(done.data.read_text(encoding="utf-8"))


def test_arguments_of_calls_stay_json_when_redacted(tmp_path: Path) -> None:
    call = {"function": {"name": "mail", "arguments": json.dumps({"to": "jane@mail.org", "n": 1})}}
    turns = [{"role": "user", "content": "write"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    done = repaired(tmp_path, json.dumps({"messages": turns}).encode(), redact=True)
    row = json.loads(done.data.read_bytes())
    arguments = json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"to": "[EMAIL_1]", "n": 1}


def test_the_original_is_never_the_target(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FAULTY)
    report = audit_source(str(path), allow_few_rows=True)
    with pytest.raises(ConfigError, match="the data file itself"):
        repair_file(str(path), path, report)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="the data file itself"):
        repair_file(str(path), link, report)
    assert path.read_bytes() == FAULTY


def test_names_of_the_three_files() -> None:
    names = [path.name for path in repair_paths(Path("x/fixed.v2.jsonl"))]
    assert names == ["fixed.v2.jsonl", "fixed.v2.quarantine", "fixed.v2.ledger.jsonl"]
    assert [path.name for path in repair_paths(Path("x/fixed"))] == ["fixed", "fixed.quarantine", "fixed.ledger.jsonl"]
