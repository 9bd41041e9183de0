"""``hone proof``: what it prints for people and programs, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import FinishedRun, Hone
from tests.tiny import without_sums


def test_a_version_is_measured_again(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("proof", "orders", "--json", "--dtype", "float32")
    found = ended.json
    assert {"schema", "name", "holds", "proof", "not_measured_now"} == found.keys()
    assert found["name"] == "orders@1"
    assert [one["number"] for one in found["proof"]] == list(range(1, 13))
    assert [one["number"] for one in found["not_measured_now"]] == [6, 12]
    assert ended.code == (0 if found["holds"] else 1)
    assert [one["number"] for one in found["proof"] if not one["holds"]] in ([], [12]), "six steps teach no end"


def test_people_read_a_line_for_each_invariant(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("proof", "orders", "--dtype", "float32")
    assert ended.out.startswith("orders@1\n")
    lines = ended.out.splitlines()
    assert any(line.startswith(" 1 holds") for line in lines)
    assert any(line.startswith("11 holds") for line in lines)
    assert "As of the run: the adapter is no longer at its start" in " ".join(ended.out.split())
    assert "of 12 invariants hold" in ended.out


def test_it_ends_with_1_where_one_does_not_hold(at_home: FinishedRun, hone: Hone, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(at_home.ended.json["run_dir"], tmp_path / "copied"))
    path = without_sums(folder / "adapter") / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(one) for name, one in load_file(path).items()}, path, metadata={"format": "pt"})
    ended = hone("proof", folder, "--json", "--dtype", "float32")
    assert ended.code == 1
    failing = {one["number"]: one for one in ended.json["proof"] if not one["holds"]}
    assert {9, 10} <= failing.keys()
    assert hone("chat", folder, "--dtype", "float32", stdin=b"hello\n").code == 1, "and it is not talked to"


def test_rows_are_checked_before_a_run(tiny_base: Path, rows: Path, hone: Hone) -> None:
    ended = hone("proof", "--data", rows, "--model", tiny_base, "--json")
    assert ended.code == 0, ended.err
    assert [one["number"] for one in ended.json["proof"]] == list(range(1, 9))
    assert all(one["holds"] and one["measured_now"] for one in ended.json["proof"])


def test_bad_input_ends_with_2(tiny_base: Path, hone: Hone) -> None:
    assert hone("proof").code == 2
    assert hone("proof", tiny_base).code == 2
    assert hone("proof", "--data", "nothing.jsonl", "--model", tiny_base).code == 2
