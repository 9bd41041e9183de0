"""Every fault of the catalogue, in a small file that has it: code, line, byte offset, pointer, message."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hone.data.audit.audit import audit_source, held_out_prompts
from hone.data.audit.report import AuditReport
from hone.data.faults import FAULTS

GOOD = b'{"prompt": "what is it?", "completion": "a lamp"}\n'
LATER = len(GOOD)
# Codes that only a model can find: tests/cli/test_data_check.py and tests/real/test_data_check.py.
LEARNED = {"cut_row", "label_error", "loss_outlier", "mismatched_pair", "template"}


def chat(*turns: Any, **more: Any) -> bytes:
    return json.dumps({"messages": list(turns), **more}, ensure_ascii=False).encode()


def user(text: object = "what is it?", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: object = "a lamp", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def pair(prompt: str = "what is it?", completion: str = "a lamp") -> bytes:
    return json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False).encode()


def call(arguments: object = "{}", **more: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "find", "arguments": arguments, **more}}


def sides(chosen: object = "a lamp", rejected: object = "no idea", **more: Any) -> bytes:
    return json.dumps({"prompt": "what is it?", "chosen": chosen, "rejected": rejected, **more}).encode()


def transcripts(*prompts: str) -> bytes:
    chosen, rejected = (f"\n\nHuman: {prompt}\n\nAssistant: {prompt}!" for prompt in prompts)
    return json.dumps({"chosen": chosen, "rejected": rejected}).encode()


# A row that is judged by itself: (code, row, pointer, a part of the message). It stands on line 2, behind a good row.
ROWS: list[tuple[str, bytes, str, str]] = [
    ("not_json", b"{oops}", "", "at character 2"),
    ("python_repr", b"{'prompt': 'a', 'completion': 'b'}", "", "json.dumps"),
    ("trailing_comma", b'{"prompt": "a", "completion": "b",}', "", "comma"),
    ("json_comment", b'{"prompt": "a", "completion": "b" // why\n}'.replace(b"\n", b""), "", "comments"),
    ("truncated", b'{"prompt": "a", "comple', "", "breaks off"),
    ("not_object", b'["a", "b"]', "", "no object"),
    ("duplicate_keys", b'{"prompt": "a", "x": {"k": 1, "k": 2}, "completion": "b"}', "/x", '"k" stands twice'),
    ("not_finite", b'{"prompt": "a", "x": [1, NaN], "completion": "b"}', "/x/1", "NaN"),
    ("not_finite", b'{"prompt": "a", "x": 1e999, "completion": "b"}', "/x", "1e999"),
    ("too_deep", b'{"prompt": "a", "completion": "b", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "", "64"),
    ("huge_integer", b'{"prompt": "a", "x": 12345678901234567890, "completion": "b"}', "/x", "12345678901234567890"),
    ("invalid_utf8", b'{"prompt": "a", "completion": "\xff"}', "", "0xFF"),
    ("lone_surrogate", b'{"prompt": "a", "completion": "\\ud800"}', "/completion", "ud800"),
    ("nul_byte", b'{"prompt": "a", "completion": "\x00"}', "", "NUL"),
    ("line_too_long", b'{"prompt": "' + b"a" * (16 << 20) + b'", "completion": "b"}', "", "16 MiB"),
    ("unknown_keys", b'{"pompt": "a", "completion": "b"}', "", "pompt"),
    ("empty_prompt", pair(prompt=" "), "/prompt", "prompt is empty"),
    ("empty_assistant", pair(completion="\n"), "/completion", "completion is empty"),
    ("bad_content", b'{"prompt": "a", "completion": 3}', "/completion", "a number"),
    ("bad_ranks", sides(margin="much"), "", "margin = 'much'"),
    ("unread_context", b'{"prompt": "a", "context": "c", "completion": "b"}', "", "context"),
    ("empty_messages", b'{"messages": []}', "/messages", "empty list"),
    ("empty_messages", b'{"messages": {"role": "user"}}', "/messages", "an object"),
    ("bad_turn", chat("hello", assistant()), "/messages/0", "is text"),
    ("bad_role", chat({"content": "x"}, assistant()), "/messages/0/role", "no role"),
    ("bad_role", chat(user(), {"role": "robot", "content": "x"}, assistant()), "/messages/1/role", "robot"),
    ("bad_role", chat({"role": 3, "content": "x"}, assistant()), "/messages/0/role", "a number"),
    ("bad_content", chat(user(None), assistant()), "/messages/0/content", "null"),
    ("bad_content", chat(user([{"type": "image_url"}]), assistant()), "/messages/0/content", "image_url"),
    ("no_assistant", chat(user()), "", "no turn of the assistant"),
    ("no_prompt", chat(assistant()), "", "nothing stands before"),
    ("empty_assistant", chat(user(), assistant("  ")), "/messages/1/content", "empty"),
    ("trailing_turns", chat(user(), assistant(), user()), "", "1 turn"),
    ("late_system", chat(user(), {"role": "system", "content": "x"}, assistant()), "/messages/1", "not the first"),
    ("role_twice", chat(user(), user("and this?"), assistant()), "/messages/1", "second user turn"),
    ("orphan_tool_result", chat(user(), {"role": "tool", "content": "3"}, assistant()), "", "no turn of the assistant"),
    ("bad_tool_call", chat(user(), assistant(None, tool_calls=[call("{oops")])), "/messages/1/tool_calls", "not JSON"),
    ("bad_tools", chat(user(), assistant(), tools=[{"description": "x"}]), "/tools/0", "no function name"),
    ("bad_weight", chat(user(), assistant(weight=2)), "/messages/1/weight", "0 or 1"),
    ("bad_weight", chat(user(weight=1), assistant()), "/messages/0/weight", "only the assistant's"),
    ("all_weights_zero", chat(user(), assistant(weight=0)), "", "weight 0"),
    ("role_alias", chat({"role": "human", "content": "what?"}, assistant()), "/messages/0/role", "read as user"),
    ("mojibake", pair(completion="sehr schÃ¶n"), "/completion", "Ã¶n"),
    ("ansi", pair(completion="\x1b[31mred\x1b[0m"), "/completion", "\\x1b[31m"),
    ("html", pair(completion="<p>a lamp</p>"), "/completion", "<p>"),
    ("control_token", pair(completion="a lamp<|im_end|>"), "/completion", "<|im_end|>"),
    ("refusal", pair(completion="I'm sorry, but I can't help with that."), "/completion", "sorry"),
    ("near_empty_answer", pair(completion="..."), "/completion", "'...'"),
    ("secret", pair(completion="use AKIAIOSFODNN7EXAMPLE"), "/completion", "an AWS access key: AKIA***"),
    ("personal_data", pair(prompt="I am jane.roe@mail.org"), "/prompt", "an e-mail address: j***@m***"),
    ("equal_sides", sides("a lamp", "a lamp"), "/rejected", "same"),
    ("prompts_differ", transcripts("a", "b"), "/rejected", "different prompts"),
    ("duplicate", GOOD.strip(), "", "the same as line 1"),
    ("conflicting_answers", pair(completion="a chair"), "", "another answer than line 1"),
]  # fmt: skip


def audited(folder: Path, content: bytes, name: str = "rows.jsonl", **more: Any) -> AuditReport:
    path = folder / name
    path.write_bytes(content)
    report = audit_source(str(path), allow_few_rows=True, **more)
    assert report.kept + report.cut + report.dropped == report.rows
    assert all(fault.severity == FAULTS[fault.code].severity and fault.remedy for fault in report.faults)
    return report


def good_row_for(row: bytes) -> bytes:
    """A good row of the format of ``row``."""
    if b'"messages"' in row:
        return chat(user("where is it?"), assistant("there")) + b"\n"
    return sides() + b"\n" if b'"chosen"' in row else GOOD


@pytest.mark.parametrize(
    ("code", "row", "pointer", "message"), ROWS, ids=[f"{c}-{i}" for i, (c, *_) in enumerate(ROWS)]
)
def test_a_row_with_a_fault(tmp_path: Path, code: str, row: bytes, pointer: str, message: str) -> None:
    good = good_row_for(row)
    report = audited(tmp_path, good + row + b"\n")
    assert report.rows == 2
    [fault] = [fault for fault in report.faults if fault.code == code]
    assert (fault.line, fault.offset, fault.pointer, fault.row) == (2, len(good), pointer, 2)
    assert message in fault.message
    status = {"error": (1, 0, 1), "warning": (2, 0, 0), "fixed": (2, 0, 0)}[FAULTS[code].severity]
    status = (1, 1, 0) if code == "trailing_turns" else status
    assert (report.kept, report.cut, report.dropped) == status
    assert report.exit_code() == (2 if FAULTS[code].severity == "error" else 0)
    assert report.totals[code] == 1


def archive(member: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr(member, "content")
    return stream.getvalue()


FILES: list[tuple[str, str, bytes, int]] = [
    ("empty_file", "a.jsonl", b"\n \n", 0),
    ("packed_file", "a.jsonl", gzip.compress(b"{}"), 0),
    ("packed_file", "a.jsonl", archive("rows.jsonl"), 0),
    ("foreign_file", "a.jsonl", archive("xl/workbook.xml"), 0),
    ("foreign_file", "a.csv", b"%PDF-1.7", 0),
    ("wrong_name", "a.jsonl", b"PAR1....PAR1", 0),
    ("wrong_name", "a.parquet", b'{"a": 1}', 0),
    ("damaged_parquet", "b.parquet", b"PAR1....PAR1", 1),
    ("lone_cr", "a.jsonl", b'{"a": 1}\r{"a": 2}\r', 0),
    ("not_rows", "a.txt", b"Well, this is prose.\nIt goes on, and on, as it does.\n", 1),
    ("broken_document", "a.json", b'[\n{"prompt": "a", "completion": "b"},\n{"prompt": "c"\n', 4),
    ("bad_header", "a.csv", b"prompt,prompt,completion\na,b,c\n", 1),
    ("unclosed_quote", "a.csv", b'prompt,completion\na,b\n"c,d\n', 3),
    ("mixed_formats", "a.jsonl", GOOD + b'{"question": "a", "answer": "b"}\n', 0),
    ("unknown_format", "a.jsonl", b'{"frage": "a", "antwort": "b"}\n', 0),
    ("no_usable_row", "a.jsonl", b'{"prompt": "a", "completion": ""}\n', 0),
]


@pytest.mark.parametrize(("code", "name", "content", "line"), FILES, ids=[f"{c}-{n}" for c, n, *_ in FILES])
def test_a_file_that_is_refused(tmp_path: Path, code: str, name: str, content: bytes, line: int) -> None:
    if name == "b.parquet":
        pytest.importorskip("pyarrow")
    report = audited(tmp_path, content, name)
    [fault] = [fault for fault in report.faults if fault.severity == "refused"]
    assert (fault.code, fault.line) == (code, line)
    assert report.refused
    assert report.exit_code() == 2


def test_few_rows_are_refused_unless_allowed(tmp_path: Path) -> None:
    rows = b"".join(pair(f"what is {number}?", f"{number}") + b"\n" for number in range(9))
    assert not audited(tmp_path, rows).refused
    report = audit_source(str(tmp_path / "rows.jsonl"))
    assert [fault.code for fault in report.faults] == ["too_few_rows"]
    assert report.refused


@pytest.mark.parametrize(
    ("code", "name", "content", "rows", "line"),
    [
        ("bom", "a.jsonl", b"\xef\xbb\xbf" + GOOD + pair("b"), 2, 1),
        ("bom", "a.csv", b"\xef\xbb\xbfprompt,completion\na,b\nc,d\n", 2, 1),
        ("crlf", "a.jsonl", GOOD + pair("b") + b"\r\n" + pair("c") + b"\r\n", 3, 2),
        ("blank_lines", "a.jsonl", GOOD + b"\n  \n" + pair("b") + b"\n", 2, 2),
        ("no_final_newline", "a.jsonl", GOOD + pair("b"), 2, 2),
        ("other_encoding", "a.jsonl", (GOOD + pair("b")).decode().encode("utf-16"), 2, 1),
        ("json_document", "a.json", b"[\n" + GOOD.strip() + b",\n" + pair("b") + b"\n]\n", 2, 1),
        ("json_document", "a.json", json.dumps(json.loads(GOOD), indent=1).encode(), 1, 1),
        ("table", "a.csv", b"prompt,completion\na,b\n", 1, 1),
    ],
)  # fmt: skip
def test_what_is_read_rightly_as_it_is(
    tmp_path: Path, code: str, name: str, content: bytes, rows: int, line: int
) -> None:
    report = audited(tmp_path, content, name)
    fault = next(fault for fault in report.faults if fault.code == code)
    assert (fault.line, fault.severity) == (line, "fixed")
    assert (report.rows, report.kept, report.exit_code(strict=True)) == (rows, rows, 0)


@pytest.mark.parametrize(
    ("code", "content", "line"),
    [
        ("bad_columns", b"prompt,completion\na,b\nc\nd,e\n", 3),
        ("bad_csv", b'prompt,completion\na,b\n"c"x,d\ne,f\n', 3),
    ],
)
def test_a_table_row_with_a_fault(tmp_path: Path, code: str, content: bytes, line: int) -> None:
    report = audited(tmp_path, content, "a.csv")
    [fault] = [fault for fault in report.faults if fault.severity == "error"]
    assert (fault.code, fault.line, fault.offset) == (code, line, len(b"prompt,completion\na,b\n"))
    assert (report.kept, report.dropped) == (2, 1)


def test_rows_that_repeat_a_held_out_prompt_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_bytes(pair("What is the capital of France?") + b"\n")
    held_out = held_out_prompts(str(tmp_path / "eval.jsonl"))
    report = audited(tmp_path, GOOD + pair("what is the capital of france") + b"\n", held_out=[held_out])
    [fault] = report.faults
    assert (fault.code, fault.line, fault.offset) == ("held_out_copy", 2, LATER)
    assert (report.kept, report.dropped, report.exit_code()) == (1, 1, 2)
    assert report.late_drops == {2: ("held_out_copy", fault.message)}
    probe = held_out_prompts(str(tmp_path / "eval.jsonl"), code="probe_copy")
    report = audited(tmp_path, GOOD + pair("what is the capital of france") + b"\n", held_out=[probe])
    assert [fault.code for fault in report.faults] == ["probe_copy"]
    assert (report.kept, report.exit_code(), report.exit_code(strict=True)) == (2, 0, 2)


def test_near_copies_imbalance_outliers_and_unread_keys(tmp_path: Path) -> None:
    near = pair("Which of the two lamps is brighter?", "x") + b"\n" + pair("Which of the two lmaps is brighter?", "y")
    report = audited(tmp_path, near + b"\n")
    assert [(fault.code, fault.line) for fault in report.faults] == [("near_duplicate", 2)]
    labels = b"".join(
        pair(f"message {chr(97 + n % 26) * (n + 1)}", "spam" if n < 60 else "ham") + b"\n" for n in range(63)
    )
    report = audited(tmp_path, labels.replace(b"}", b', "id": 1, "note": "x"}'))
    told = {fault.code: fault.message for fault in report.faults}
    assert told["unread_keys"] == "nothing is read from id, note"
    assert told["class_imbalance"] == "'spam' stands in 60 rows, 'ham' in 3"
    assert report.totals["unread_keys"] == 63
    texts = b"".join(
        pair(f"tell me about {chr(97 + n)}", f"answer {chr(97 + n)} " * (1 if n else 500)) + b"\n" for n in range(20)
    )
    report = audited(tmp_path, texts)
    assert [(fault.code, fault.line) for fault in report.faults] == [("length_outlier", 1)]


def test_every_code_of_the_catalogue_is_tested() -> None:
    tested = {code for code, *_ in (*ROWS, *FILES)} | {"too_few_rows", "bom", "crlf", "blank_lines", "bad_columns"}
    tested |= {"no_final_newline", "other_encoding", "json_document", "table", "bad_csv", "held_out_copy", "probe_copy"}
    tested |= {"near_duplicate", "class_imbalance", "length_outlier", "unread_keys"}
    # tests/data/test_preferences.py
    tested |= {"conflicting_votes", "length_bias", "near_equal_sides", "one_sided_labels", "unclear_labels"}
    tested |= {"odd_language", "odd_prompt"}  # test_clusters.py
    assert set(FAULTS) - LEARNED == tested


def test_all_faults_of_a_row_are_told(tmp_path: Path) -> None:
    row = chat({"role": "robot", "content": "x"}, user(None), assistant(3, weight="1"), tools=[{}])
    report = audited(tmp_path, chat(user("a"), assistant("b")) + b"\n" + row + b"\n")
    assert [(fault.code, fault.pointer) for fault in report.faults] == [
        ("bad_role", "/messages/0/role"),
        ("bad_content", "/messages/1/content"),
        ("bad_weight", "/messages/2/weight"),
        ("bad_content", "/messages/2/content"),
        ("bad_tools", "/tools/0"),
    ]
    assert (report.rows, report.dropped) == (2, 1)


def test_more_faults_than_are_shown_are_counted(tmp_path: Path) -> None:
    bad = b"".join(pair(f"p{number}", "") + b"\n" for number in range(1500))
    report = audited(tmp_path, GOOD + b'{"prompt": "q", "completion": "..."}\n' + bad + b"{oops\n")
    assert report.totals["empty_assistant"] == 1500
    assert len(report.faults) == 1000
    assert report.totals["not_json"] + report.totals["near_empty_answer"] == 2


def test_preferences_are_told(tmp_path: Path) -> None:
    report = audited(tmp_path, sides() + b"\n")
    assert report.faults == []
    assert report.format == "preference"
    assert report.coverage is not None
    assert report.coverage["preferences"]["pairs"] == 1
