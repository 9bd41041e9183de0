"""CSV, TSV, Parquet and hub data sets as rows."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data import tables
from hone.data.source import RawRow, read_rows
from hone.errors import DataError, MissingDependencyError

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def _read(folder: Path, name: str, content: str | bytes) -> list[RawRow]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(path)))


def test_cells_keep_their_line_even_behind_cells_of_many_lines(tmp_path: Path) -> None:
    rows = _read(tmp_path, "a.csv", 'prompt,completion\na,b\n"c\nd\n\ne",f\n\n"g ""quoted"", h",i\n')
    assert [(row.row, row.line, row.value) for row in rows] == [
        (1, 2, {"prompt": "a", "completion": "b"}),
        (2, 3, {"prompt": "c\nd\n\ne", "completion": "f"}),
        (3, 8, {"prompt": 'g "quoted", h', "completion": "i"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str, name: str) -> None:
    records = [["prompt", "completion"], ["a, b", "c; d"], ["e", "f | g"], ["h, i", "j"]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(records)
    rows = _read(tmp_path, name, out.getvalue())
    assert [list((row.value or {}).values()) for row in rows] == records[1:]


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_whatever_csv_holds_is_read_back(tmp_path_factory: Any, pairs: list[tuple[str, str]], ending: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator=ending)
    writer.writerows([("prompt", "completion"), *pairs])
    rows = _read(tmp_path_factory.mktemp("csv"), "a.csv", out.getvalue())
    assert [tuple((row.value or {}).values()) for row in rows] == pairs


def test_bad_records_cost_one_row_each(tmp_path: Path) -> None:
    content = b'prompt,completion\na,b\na\na,b,c\n"a" b,c\na,\xff\na,\x00\nc,d\n'
    rows = _read(tmp_path, "a.csv", content)
    codes = [None, "bad_columns", "bad_columns", "bad_csv", "invalid_utf8", "nul_byte", None]
    assert [row.code for row in rows] == codes
    assert [row.line for row in rows] == list(range(2, 9))
    assert "1 cells where the header has 2" in str(rows[1].error)


def test_a_quote_that_is_never_closed_refuses_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="never closed") as caught:
        _read(tmp_path, "a.csv", 'prompt,completion\na,b\n"c,d\ne,f\ng,h\n')
    assert caught.value.where == f"{tmp_path / 'a.csv'}:3"


def test_tab_separated_quotes_are_text_where_they_do_not_pair(tmp_path: Path) -> None:
    rows = _read(tmp_path, "a.tsv", 'prompt\tcompletion\n"Hello\tx\nhe said "no"\ty\n')
    assert [row.value for row in rows] == [
        {"prompt": '"Hello', "completion": "x"},
        {"prompt": 'he said "no"', "completion": "y"},
    ]
    quoted = _read(tmp_path, "b.tsv", 'prompt\tcompletion\n"a\tb"\tx\n')
    assert [row.value for row in quoted] == [{"prompt": "a\tb", "completion": "x"}]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a,b,a\n1,2,3\n", "twice: a"),
        (",\n1,2\n", "names no columns"),
        (b"a,\xff\n1,2\n", "UTF-8"),
        ('""\n', "names no"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path: Path, content: str | bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        _read(tmp_path, "a.csv", content)


def test_nameless_columns_are_left_out_and_names_trimmed(tmp_path: Path) -> None:
    rows = _read(tmp_path, "a.csv", b"\xef\xbb\xbf, prompt ,completion\r\n0,a,b\r\n")
    assert [row.value for row in rows] == [{"prompt": "a", "completion": "b"}]


def test_cells_beyond_pythons_own_limit_are_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    rows = _read(tmp_path, "a.csv", f'prompt,completion\n"{long}",b\n')
    assert rows[0].value == {"prompt": long, "completion": "b"}


def test_json_in_a_file_called_csv_is_read_as_json(tmp_path: Path) -> None:
    assert [row.value for row in _read(tmp_path, "a.csv", '{"prompt": "a"}\n{"prompt": "b"}\n')] == [
        {"prompt": "a"},
        {"prompt": "b"},
    ]


def test_parquet_rows_lose_the_nulls_of_structs(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]},
        {"messages": [{"role": "user", "content": "c"}], "note": "d"},
    ]
    path = tmp_path / "rows.whatever"  # found by its content
    parquet.write_table(arrow.Table.from_pylist(values, schema=None), path)
    rows = list(read_rows(str(path)))
    assert [(row.row, row.line) for row in rows] == [(1, 1), (2, 2)]
    assert rows[0].value is not None
    assert rows[0].value["messages"] == values[0]["messages"]
    assert all("weight" not in turn for turn in (rows[1].value or {})["messages"])


def test_damaged_parquet_is_a_data_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="damaged Parquet"):
        _read(tmp_path, "a.parquet", b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="no Parquet file"):
        _read(tmp_path, "b.parquet", '{"a": 1}')


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "parquet"), ("datasets", "hub")])
def test_missing_packages_come_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    source = "org/name"
    if package == "pyarrow":
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        source = str(tmp_path / "a.parquet")
    with pytest.raises(MissingDependencyError) as caught:
        list(read_rows(source))
    assert caught.value.remedy == f'pip install "hone-llm[{extra}]"'


class _FakeDatasetsError(Exception):
    pass


def _fake_datasets(answer: Any) -> Any:
    def load_dataset(name: str, *, split: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return [{"prompt": f"{name} {split}", "completion": "c", "extra": {"a": None, "b": 1}}]

    return SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=_FakeDatasetsError))


@pytest.mark.parametrize(("hub_id", "asked"), [("org/name", "org/name train"), ("org/name:test", "org/name test")])
def test_hub_rows_are_those_of_the_split(monkeypatch: pytest.MonkeyPatch, hub_id: str, asked: str) -> None:
    monkeypatch.setattr(tables, "_optional_module", lambda *_: _fake_datasets(None))
    rows = list(read_rows(hub_id))
    assert rows == [RawRow(1, 1, {"prompt": asked, "completion": "c", "extra": {"b": 1}})]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ConnectionError("Couldn't reach 'org/name'\nmore"), "hub cannot be asked"),
        (_FakeDatasetsError("not found"), "no such data set"),
        (ValueError('Unknown split "x"'), "no such data set"),
        (PermissionError("gated"), "no such data set"),
    ],
)
def test_hub_errors_are_data_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, what: str) -> None:
    monkeypatch.setattr(tables, "_optional_module", lambda *_: _fake_datasets(error))
    with pytest.raises(DataError, match=what) as caught:
        list(read_rows("org/name"))
    assert "more" not in caught.value.what


def test_offline_the_hub_is_a_data_error() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="hub cannot be asked"):
        list(read_rows("org/name"))
