"""A file of rows is there whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.data.row_files import atomic_stream
from hone.errors import StorageError


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "rows.jsonl"
    with atomic_stream(target) as stream:
        stream.write(b"one\n")
        assert not target.exists()
        stream.write(b"two\n")
    assert target.read_bytes() == b"one\ntwo\n"
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_stream(target) as stream:
        stream.write(b"new" * (1 // 0))
    with pytest.raises(StorageError, match="no space"), atomic_stream(target):
        raise OSError(28, "no space")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(StorageError, match="cannot be written"), atomic_stream(target / "below.jsonl"):
        pass
