"""``hone evaluate``: a version, a run's folder or a base, on its own held-out rows or on a file."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import FinishedRun, Hone, write_rows


def test_a_run_folder_is_evaluated_as_hone_run_does_it(at_home: FinishedRun, hone: Hone) -> None:
    result = at_home.ended.json
    folder = Path(result["run_dir"])
    ended = hone("evaluate", folder, folder / "held_out.jsonl", "--json", "--max-new-tokens", 8, "--probes", 1)
    assert ended.code in (0, 3), ended.err
    assert {"schema", "version", "evaluation", "verdict", "generation", "proof", "data"} <= ended.json.keys()
    for arm in ("base", "tuned"):
        assert ended.json["evaluation"]["arms"][arm]["metrics"] == result["evaluation"]["arms"][arm]["metrics"]
    assert {one["number"] for one in ended.json["proof"]} == {10, 11, 12}
    assert {**ended.json["retention"], "seconds": 0} == {**result["retention"], "seconds": 0}


def test_people_get_the_same_table(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("evaluate", "orders", "--max-new-tokens", 4, "--limit", 2, "--probes", 1)
    assert ended.code in (0, 3), ended.err
    assert ended.out.startswith("orders@1\n")
    assert "Comparison on 2 held-out rows" in ended.out
    assert "tuned - base" in ended.out
    assert "Retention outside of the domain: " in ended.out
    assert "general text, bits a byte" in ended.out
    assert "Strength  " in ended.out
    assert "Verdict" in ended.out


def test_a_base_alone_has_no_verdict(tiny_base: Path, tmp_path: Path, hone: Hone) -> None:
    rows = write_rows(tmp_path / "held_out.jsonl", 3)
    ended = hone("evaluate", tiny_base, rows, "--max-new-tokens", 2, "--metric", "chrf")
    assert ended.code == 0, ended.err
    assert "chrF decides" in ended.out
    assert "Verdict" not in ended.out


def test_an_arm_that_is_not_there_is_refused(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("evaluate", "orders", "--arms", "base,retrieval")
    assert ended.code == 2
    assert "use --arms base,prompted,few_shot,tuned" in ended.err
