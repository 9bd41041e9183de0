"""Training on top of a version: it is merged once, and is the base, the reference and the one to be better than."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hone.config import PlanConfig, RunConfig, TrainConfig
from hone.errors import ModelError, ProofError
from hone.files import remove_folder
from hone.recipe.export import ExportResult, export_version
from hone.recipe.plan import plan
from hone.recipe.run import run, train
from hone.recipe.version_base import on_version
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    asked = [row(number) for number in range(24)]
    return write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"prompt": one["prompt"], "chosen": one["completion"], "rejected": "nobody can tell you"} for one in asked],
    )


@pytest.mark.usefixtures("evaluated_here")
def test_preferences_are_learned_on_top_of_a_version(
    pairs: Path,
    run_options: Callable[..., RunConfig],
    train_options: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    rows = write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(24)])
    begun = run(run_options(data=str(rows), max_steps=8, held_out=8, name="orders"), home=home, recorder=Listener())
    assert begun["version"] == "orders@1"

    heard = Listener()
    result = train(train_options(data=str(pairs), model="orders", max_steps=2), home=home, recorder=heard)
    assert all(one["holds"] for one in result["proof"]), result["proof"]
    steps = [line for line in read_jsonl(Path(result["run_dir"]) / "metrics.jsonl") if line["event"] == "step"]
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-4), "the reference is the version"
    merged = Path(result["base"]["name"])
    assert merged.parent == home.absolute() / "models" / "versions"
    assert merged.name.startswith("orders@1-")
    assert any(event.data["name"] == "write" for event in heard.of("stage"))

    def other_answers(*given: Any, **named: Any) -> ExportResult:
        made = export_version(*given, **named)
        failed = [replace(one, invariant=replace(one.invariant, holds=False)) for one in made.checks]
        return replace(made, checks=tuple(failed))

    again = Listener()
    on_version(train_options(data=str(pairs), model="orders@1"), home=home, recorder=again)
    assert not again.of("stage"), "it is merged once"
    remove_folder(merged)
    monkeypatch.setattr("hone.recipe.export.export_version", other_answers)
    with pytest.raises(ProofError, match="does not give its own answers"):
        on_version(train_options(data=str(pairs), model="orders@1"), home=home, recorder=again)
    assert not merged.exists(), "nobody trains on it"
    told = plan(PlanConfig(data=str(pairs), model="orders@1", probe=False), home=home, note=print)
    assert told["method"]["name"] == "dpo"


def test_a_name_of_nothing_is_told_as_a_model_that_is_not_there(
    pairs: Path, train_options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model of the name 'orders@7'"):
        train(train_options(data=str(pairs), model="orders@7"), home=tmp_path / "home", recorder=Listener())
    assert not (tmp_path / "home" / "runs").exists()
