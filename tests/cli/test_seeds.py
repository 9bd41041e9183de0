"""``hone run --seeds`` for people: the table, the time of all trainings, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hone.cli.seeds import seeds_lines, seeds_trained
from tests.cli.conftest import Hone
from tests.recipe.conftest import evaluate_in_this_process


def test_the_summary_has_every_seed_the_mean_and_what_the_intervals_are_over(
    tiny_base: Path, rows: Path, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)
    given = ("--model", tiny_base, "--max-steps", 2, "--max-new-tokens", 4, "--probes", 0, "--general-rows", 0)
    ended = hone("run", rows, *given, "--arms", "base,tuned", "--seed", 5, "--seeds", 2)
    assert ended.code in (0, 3), ended.err
    text = " ".join(ended.out.split())
    assert re.search(r"and 1 more on the same rows in [\d.]+ s: seed 6", text)
    for pattern in (
        r"Seeds of training .* tuned - base 95% interval over",
        r"5, registered [\d.]+ [+-][\d.]+ \S+ to \S+ rows",
        r"6 [\d.]+ [+-][\d.]+ \S+ to \S+ rows",
        r"mean [\d.]+ [+-][\d.]+ \S+ to \S+ rows and seeds",
        r"standard deviation [\d.]+",
    ):
        assert re.search(pattern, text), (pattern, ended.out)
    assert "2 of 2: the same rows, trained with seed 6" in " ".join(ended.err.split())


@pytest.mark.parametrize("count", ["0", "-1", "101", "many"])
def test_a_number_of_seeds_that_makes_no_sense_is_an_error_with_its_rule(rows: Path, hone: Hone, count: str) -> None:
    ended = hone("run", rows, f"--seeds={count}")
    assert ended.code == 2
    assert f"--seeds {count}: must be " in ended.err
    assert "hone run --help" in ended.err


def test_a_plan_counts_all_trainings(tiny_base: Path, rows: Path, hone: Hone) -> None:
    one = hone("plan", rows, "--model", tiny_base, "--no-probe", "--json").json
    three = hone("plan", rows, "--model", tiny_base, "--no-probe", "--seeds", 3, "--json").json
    assert one["seeds"] == {"trainings": 1, "seconds": pytest.approx(one["estimates"][0]["seconds"], abs=0.01)}
    assert three["seeds"]["trainings"] == 3
    assert three["seeds"]["seconds"] == pytest.approx(3 * three["estimates"][0]["seconds"], rel=0.05, abs=0.05)
    told = hone("plan", rows, "--model", tiny_base, "--no-probe", "--seeds", 3).out
    assert re.search(r"^Seeds +3 trainings, one after the other, .* in all$", told, re.MULTILINE)
    assert "Seeds " not in hone("plan", rows, "--model", tiny_base, "--no-probe").out


def test_one_seed_adds_nothing_and_an_unproven_one_is_named() -> None:
    assert seeds_trained({}) is None
    assert list(seeds_lines({}, columns=80)) == []
    training: dict[str, Any] = {"score": 0.5, "difference": -0.1, "interval": None, "seconds": 3.0}
    evaluation = {
        "metric": "bits_per_byte",
        "metrics": {"bits_per_byte": {"title": "Bits per byte"}},
        "seeds": {
            "trainings": [
                {**training, "seed": 0, "registered": True, "proven": True},
                {**training, "seed": 1, "registered": False, "proven": False},
            ],
            "mean": 0.5, "standard_deviation": 0.01, "difference": -0.1, "interval": [-0.2, 0.012], "confidence": 0.95,
        },
    }  # fmt: skip
    lines = [str(line) for line in seeds_lines(evaluation, columns=80)]
    assert lines[4].split() == ["mean", "0.500", "-0.100", "-0.200", "to", "+0.012", "rows", "and", "seeds"]
    assert "none" in lines[2]
    assert "adapter of seed 1" in lines[-1]
