"""Rows out of files: their lines, their faults, and the files that are refused whole."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data import rows as rows_module
from hone.data.source import RawRow, is_hub_id, read_rows, source_hash
from hone.errors import DataError

ROW = {"prompt": "p", "completion": "c"}


def _write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _read(folder: Path, name: str, content: str | bytes) -> list[RawRow]:
    return list(read_rows(_write(folder, name, content)))


def _lines(rows: list[RawRow]) -> list[int]:
    return [row.line for row in rows]


def test_json_lines_count_lines_but_not_blank_ones_as_rows(tmp_path: Path) -> None:
    text = f"\n{json.dumps(ROW)}\n\n  \t\n{json.dumps(ROW)}"
    rows = _read(tmp_path, "a.jsonl", text)
    assert [(row.row, row.line, row.value) for row in rows] == [(1, 2, ROW), (2, 5, ROW)]


def test_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    line = json.dumps(ROW)
    rows = _read(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}\r\n".encode())
    assert [(row.line, row.value) for row in rows] == [(1, ROW), (3, ROW)]
    joined = _read(tmp_path, "b.jsonl", b"\xef\xbb\xbf" + f"{line}\n".encode() + b"\xef\xbb\xbf" + line.encode())
    assert [row.value for row in joined] == [ROW, ROW]


def test_lines_are_split_on_newline_only(tmp_path: Path) -> None:
    value = {"prompt": "a\u2028b\u2029c\x85d\x0be", "completion": "\x1c"}
    rows = _read(tmp_path, "a.jsonl", json.dumps(value, ensure_ascii=False) + "\n" + json.dumps(ROW))
    assert [row.value for row in rows] == [value, ROW]


def test_bad_lines_keep_their_place_and_their_code(tmp_path: Path) -> None:
    good = json.dumps(ROW)
    lines = [good, "{oops}", "[1]", '"text"', "3", "null", '{"a": NaN}', '{"a": "\\ud800"}', '{"a":1,"a":2}', good]
    rows = _read(tmp_path, "a.jsonl", "\n".join(lines))
    codes = [row.code for row in rows]
    assert codes[1:-1] == [
        *("not_json", "not_object", "not_object", "not_object", "not_object"),
        *("not_finite", "lone_surrogate", "duplicate_keys"),
    ]
    assert [row.value for row in rows if row.code is None] == [ROW, ROW]
    assert _lines(rows) == list(range(1, len(lines) + 1))
    assert all((row.error is None) == (row.code is None) for row in rows)


def test_invalid_utf8_and_nul_cost_one_row_each(tmp_path: Path) -> None:
    good = json.dumps(ROW).encode()
    rows = _read(tmp_path, "a.jsonl", b"\n".join([good, b'{"a": "\xff"}', b'{"a": "\x00"}', good]))
    assert [row.code for row in rows] == [None, "invalid_utf8", "nul_byte", None]


def test_a_cut_off_last_line_is_told_as_such(tmp_path: Path) -> None:
    cut_off, ended = (_read(tmp_path, "a.jsonl", json.dumps(ROW) + "\n" + '{"prompt": "p' + end) for end in ("", "\n"))
    assert "cut short" in str(cut_off[1].error)
    assert ended[1].code == "truncated"
    assert "cut short" not in str(ended[1].error)


def test_a_line_over_the_limit_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2 << 20
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", limit)
    monkeypatch.setattr(rows_module.read_lines, "__kwdefaults__", {"max_bytes": limit})
    good = json.dumps(ROW)
    long = json.dumps({"prompt": "x" * 3 * limit})
    rows = _read(tmp_path, "a.jsonl", "\n".join([good, long, good]) + "\n")
    assert [(row.line, row.code) for row in rows] == [(1, None), (2, "line_too_long"), (3, None)]


objects = st.dictionaries(st.text(max_size=5), st.text(max_size=9), min_size=1, max_size=3)


@given(st.lists(objects, min_size=1, max_size=6), st.data())
def test_every_layout_of_json_gives_the_same_rows(
    tmp_path_factory: Any, values: list[Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("layouts")
    indent = data.draw(st.sampled_from([None, 0, 2, "\t"]))
    ending = data.draw(st.sampled_from(["\n", "\r\n"]))
    ascii_only = data.draw(st.booleans())
    texts = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    layouts = {
        "lines.jsonl": ending.join(texts),
        "array.json": json.dumps(values, indent=indent, ensure_ascii=ascii_only),
        "array.jsonl": json.dumps(values, indent=indent, ensure_ascii=ascii_only),
        "pretty.json": ending.join(json.dumps(value, indent=2, ensure_ascii=ascii_only) for value in values),
        "lines.txt": ending.join(texts) + ending,
    }
    for name, text in layouts.items():
        rows = _read(folder, name, text)
        assert [row.value for row in rows] == values, name
        assert [row.row for row in rows] == list(range(1, len(values) + 1))


def test_rows_of_an_array_have_the_line_they_begin_on(tmp_path: Path) -> None:
    text = '\n[\n  {"a": 1},\n  {\n    "a": [2,\n 3]\n  }, {"a": 4},\n\n  5,\n  {"a": NaN}\n]\n'
    rows = _read(tmp_path, "a.json", text)
    assert [(row.row, row.line, row.code) for row in rows] == [
        (1, 3, None),
        (2, 4, None),
        (3, 7, None),
        (4, 9, "not_object"),
        (5, 10, "not_finite"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('[\n{"a": 1},\n{"a": 2\n', 4, "expecting"),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3, "must follow"),
        ('[\n{"a": 1},\n]', 3, "comma"),
        ('[\n{"a": 1}\n', 3, "never closed"),
        ("[", 1, "expecting value"),
        ('{\n  "a": 1\n}\n{\n  "a": oops\n}\n', 5, "expecting value"),
    ],
)
def test_a_broken_document_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        _read(tmp_path, "a.json", text)
    assert caught.value.where == f"{tmp_path / 'a.json'}:{line}"
    assert caught.value.remedy


def test_a_bad_first_line_does_not_hide_the_others(tmp_path: Path) -> None:
    broken = {"{oops}": "not_json", '{"prompt": "p", ': "truncated", "[1, 2": "truncated", "nonsense": "not_json"}
    for first, code in broken.items():
        rows = _read(tmp_path, "a.jsonl", f"{first}\n{json.dumps(ROW)}\n{json.dumps(ROW)}\n")
        assert [row.code for row in rows] == [code, None, None], first


def test_a_list_a_line_is_no_document(tmp_path: Path) -> None:
    assert [row.code for row in _read(tmp_path, "a.jsonl", '["a"]\n["b"]\n')] == ["not_object", "not_object"]


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    assert _read(tmp_path, "a.json", " [ ] \n") == []


def _zipped(folder: Path, member: str) -> bytes:
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        archive.writestr(member, "content")
    return (folder / "made.zip").read_bytes()


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        pytest.param(b"", "empty", "at least one", id="nothing"),
        pytest.param(b"\xef\xbb\xbf \n\r\n", "empty", "at least one", id="white space"),
        pytest.param(gzip.compress(b"{}", mtime=0), "gzip", "unpack", id="gzip"),
        pytest.param("zip:rows.jsonl", "zip file", "unpack", id="zip"),
        pytest.param("zip:xl/workbook.xml", "Excel", "CSV", id="workbook"),
        pytest.param(b"\x01\x00\x02\x00" * 50, "binary", "UTF-8", id="binary"),
        pytest.param(b'{"a": 1}\r{"a": 2}\r', "carriage return", "tr", id="old Mac line ends"),
        pytest.param(b"SQLite format 3\x00", "SQLite", "export", id="SQLite"),
    ],
)
def test_foreign_files_are_refused_with_what_to_do(
    tmp_path: Path, content: bytes | str, what: str, remedy: str
) -> None:
    data = _zipped(tmp_path, content.removeprefix("zip:")) if isinstance(content, str) else content
    with pytest.raises(DataError, match=what) as caught:
        read_rows(_write(tmp_path, "rows.jsonl", data))
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_unicode_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    text = json.dumps({"a": "größer 🙂\u2028"}, ensure_ascii=False) + "\n" + json.dumps({"a": "b" * 100}) + "\n"
    rows = _read(tmp_path, "a.jsonl", text.encode(encoding))
    assert [row.value for row in rows] == [json.loads(line) for line in text.split("\n")[:2]]
    mark = len("".encode(encoding))
    assert [row.offset for row in rows] == [
        0,
        len(text.split("\n")[0].encode(encoding)) + len("\n".encode(encoding)) - mark,
    ]
    document = _read(tmp_path, "a.json", json.dumps([{"a": "ä"}, {"a": "c"}]).encode(encoding))
    assert [row.value for row in document] == [{"a": "ä"}, {"a": "c"}]


def test_half_a_character_of_utf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no valid UTF-16"):
        _read(tmp_path, "a.jsonl", '{"a": 1}\n'.encode("utf-16") + b"\x00")


def test_prose_is_neither_json_nor_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither JSON nor a table"):
        read_rows(_write(tmp_path, "a.txt", "Well, this is prose.\nIt goes on, and on, as it does.\n"))


def test_a_missing_file_is_told_with_its_neighbours(tmp_path: Path) -> None:
    for name in ("train.jsonl", "eval.jsonl", "photo.png"):
        _write(tmp_path, name, "{}")
    with pytest.raises(DataError, match="no such file") as caught:
        read_rows(str(tmp_path / "trian.jsonl"))
    assert "train.jsonl" in str(caught.value.remedy)
    with pytest.raises(DataError, match=r"eval\.jsonl, train\.jsonl"):
        read_rows(str(tmp_path / "zzz"))
    with pytest.raises(DataError, match="there is no folder"):
        read_rows(str(tmp_path / "nowhere" / "train.jsonl"))


def test_a_folder_is_told_with_its_files(tmp_path: Path) -> None:
    _write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"is a folder(.|\n)*train\.jsonl"):
        read_rows(str(tmp_path))


def test_hub_ids_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_id("org/name")
    assert is_hub_id("org/name:validation")
    for path in (
        "name",
        "here/name",
        "./org/name",
        "org/data.jsonl",
        "org/sub/name",
        "/org/name",
        "org/a b",
        "org/x.csv",
    ):
        assert not is_hub_id(path), path


def test_source_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", b"\xef\xbb\xbf{}\r\n")
    assert source_hash(path) == hashlib.sha256(b"\xef\xbb\xbf{}\r\n").hexdigest()


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a"]))
def test_no_file_gives_another_error(tmp_path_factory: Any, content: bytes, name: str) -> None:
    path = _write(tmp_path_factory.mktemp("fuzz"), name, content)
    try:
        rows = list(read_rows(path))
    except DataError as error:
        refused_at = error.where
    else:
        refused_at = path
        assert [row.row for row in rows] == list(range(1, len(rows) + 1))
        assert all((row.value is None) == (row.code is not None) for row in rows)
    assert str(refused_at).startswith(path)
