"""``hone data show``: rows as the model sees them, marks that survive a pipe, and every bad row with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Hone

ROWS = """\
{"prompt": "what is it?", "completion": "a lamp"}
{"prompt": "", "completion": "x"}
not json
{"prompt": "and this?", "completion": "an order"}
{"prompt": "too long? PADDING", "completion": "yes"}
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two good rows, two bad ones, and one that is too long for a length of 100 tokens."""
    file = tmp_path / "mixed.jsonl"
    file.write_text(ROWS.replace("PADDING", "so " * 100), encoding="utf-8")
    return file


def test_supervised_text_stands_in_brackets_also_in_a_pipe(mixed: Path, tiny_base: Path, hone: Hone) -> None:
    ended = hone("data", "show", mixed, "--model", tiny_base, "--rows", 2)
    assert ended.code == 0, ended.err
    assert "<|im_start|>assistant\n⟦a lamp<|im_end|>⟧" in ended.out
    assert "⟦an order<|im_end|>⟧" in ended.out
    assert ended.out.count("⟦") == 3  # the two rows, and the line that explains the mark
    assert "\x1b" not in ended.out
    assert "row 1 (mixed.jsonl:1), " in ended.out


def test_every_bad_row_has_its_place_and_reason(mixed: Path, tiny_base: Path, hone: Hone) -> None:
    ended = hone("data", "show", mixed, "--model", tiny_base, "--rows", 0, "--max-length", 100)
    text = " ".join(ended.out.split())
    assert "5 read: 2 kept, 0 cut, 3 dropped" in text
    for line in (2, 3, 5):
        assert f"Dropped {mixed}:{line}: " in text


def test_the_object_agrees_with_the_ids(mixed: Path, tiny_base: Path, hone: Hone) -> None:
    ended = hone("data", "show", mixed, "--model", tiny_base, "--row", 4, "--ids", "--json")
    assert ended.code == 0, ended.err
    shown = ended.json
    assert (shown["schema"], shown["data"]["rows"], shown["data"]["dropped"]) == (1, 5, 2)
    [row] = shown["rows"]
    assert row["row"] == 4
    [sequence] = row["sequences"]
    assert len(sequence["ids"]) == len(sequence["supervised"]) == row["tokens"]
    assert sum(sequence["supervised"]) == row["supervised_tokens"]
    assert [part["text"] for part in row["segments"] if part["supervised"]] == ["an order<|im_end|>"]
    assert {(bad["line"], bad["status"]) for bad in shown["bad_rows"]} == {(2, "dropped"), (3, "dropped")}


def test_ids_are_marked_too(mixed: Path, tiny_base: Path, hone: Hone) -> None:
    ended = hone("data", "show", mixed, "--model", tiny_base, "--row", 1, "--ids")
    [line] = [line for line in ended.out.splitlines() if line.replace("⟦", "").replace("⟧", "").split()[:1] == ["1"]]
    inside = line.split("⟦")[1].split("⟧")[0].split()
    assert inside[-1] == "2"  # the end of the turn carries loss


@pytest.mark.parametrize(("row", "message"), [(2, "row 2 cannot be used: "), (9, "give a number from 1 to 5")])
def test_a_row_that_cannot_be_shown_says_why(row: int, message: str, mixed: Path, tiny_base: Path, hone: Hone) -> None:
    ended = hone("data", "show", mixed, "--model", tiny_base, "--row", row)
    assert ended.code == 2
    assert message in ended.err


def test_a_page_holds_the_rows_and_no_markup_of_theirs(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "what is <b>it</b>?", "completion": "a <script>lamp"}\n', encoding="utf-8")
    page = tmp_path / "page.html"
    ended = hone("data", "show", file, "--model", tiny_base, "--html", page)
    assert ended.code == 0, ended.err
    text = page.read_text(encoding="utf-8")
    assert "<mark>a &lt;script&gt;lamp&lt;|im_end|&gt;</mark>" in text
    assert "what is &lt;b&gt;it&lt;/b&gt;?" in text
    assert "<script" not in text


def test_where_a_row_is_cut_is_shown(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": "so it is " * (1 if n < 2 else 60)} for n in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    ended = hone("data", "show", file, "--model", tiny_base, "--max-length", 100)
    assert ended.code == 0, ended.err
    assert "-- cut here: " in ended.out
    assert "tokens are left out behind this: longer than the maximum length" in ended.out
