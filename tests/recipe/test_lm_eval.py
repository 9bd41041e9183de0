"""``--lm-eval``: tasks of lm-evaluation-harness are a part of retention; the last tests need the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hone.config import EvaluateConfig, RunConfig, load_config
from hone.errors import ConfigError, MissingDependencyError
from hone.model.lora import adapted_layers
from hone.recipe.evaluate import evaluate
from hone.recipe.inference import load_answerer
from hone.recipe.question_sets import question_sets
from hone.recipe.retention import measure_retention
from hone.recipe.run import run
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, write_jsonl


def test_tasks_are_named_with_commas() -> None:
    config = load_config(EvaluateConfig, {"version": "support", "lm_eval": "arc_easy, ./a.yaml", "lm_eval_limit": "20"})
    assert (config.lm_eval, config.lm_eval_limit) == (("arc_easy", "./a.yaml"), 20)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lm_eval": "arc_easy", "probes": "0"}, "lm_eval = arc_easy has no effect with probes = 0"),
        ({"lm_eval_limit": "5"}, "lm_eval_limit = 5 has no effect without lm_eval"),
        ({"lm_eval": ""}, "lm_eval"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, {"version": "support", **given})
    assert told in str(caught.value)


def test_without_the_package_nothing_long_begins(
    run_options: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    heard = Listener()
    asked = EvaluateConfig.model_validate({"version": "nobody", "lm_eval": "arc_easy"})
    with pytest.raises(MissingDependencyError, match="need the package lm-eval"):
        evaluate(asked, home=tmp_path, recorder=heard)
    config = run_options(probes=1).model_copy(update={"lm_eval": ("arc_easy",)})
    with pytest.raises(MissingDependencyError, match="need the package lm-eval"):
        run(config, home=tmp_path, recorder=heard)
    assert not heard.events
    assert not (tmp_path / "runs").exists()


# --- with the harness ---


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same 36 questions four times: each of the three choices is the right one once, and once a text is written."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    choices = ["it is lit", "it is not", "on the way"]
    things = [f"{thing} {number}" for thing in ("lamp", "order", "bell") for number in range(12)]
    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"q": f"what of the {thing}?", "choices": choices} for thing in things]
    )
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}, "test_split": "test",
              "doc_to_text": "{{q}}"}  # fmt: skip
    choosing = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}]}
    writing = {"output_type": "generate_until", "doc_to_target": "yes", "metric_list": [{"metric": "exact_match"}],
               "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}}  # fmt: skip
    tasks = [{"task": f"choice{right}", "doc_to_target": str(right), **choosing} for right in range(3)]
    folder = tmp_path / "tasks"
    folder.mkdir()
    for one in [*tasks, {"task": "written", **writing}]:
        (folder / f"{one['task']}.yaml").write_text(yaml.safe_dump({**shared, **one}), encoding="utf-8")
    return folder


def measured(finished: Finished, task: Path, home: Path, *, untouched: bool = False, **given: Any) -> JsonDict:
    answerer = load_answerer(str(finished.folder), home=finished.home, dtype="float32", note=lambda text: None)
    if untouched:
        with torch.no_grad():
            for _, layer in adapted_layers(answerer.base.model):
                layer.lora_B.zero_()
    config = EvaluateConfig.model_validate({"version": "any", "probes": 1, "lm_eval": [str(task)], **given})
    heard = Listener()
    found = measure_retention(
        answerer, keep="balanced", questions=question_sets(config), domain_answers=["the lamp is lit"] * 9, home=home,
        recorder=heard,
    )  # fmt: skip
    shown = found.to_json()
    shown["told"] = [str(event.data["task"]) for event in heard.of("progress")]
    return shown


def test_a_task_is_a_set_of_questions_like_the_others(finished: Finished, task: Path, tmp_path: Path) -> None:
    first = measured(finished, task, tmp_path)
    (found,) = first["tasks"]
    assert first["files"] == []
    assert found["name"] == "tasks"
    assert found["questions"] == 4 * 36
    assert {skill["skill"]: skill["at_floor"] for skill in found["skills"]}["written"]
    choices = [skill for skill in found["skills"] if skill["skill"] != "written"]
    assert sum(skill["base"] for skill in choices) == 36, "of three choices one is the likeliest"
    assert sum(skill["tuned"] for skill in choices) == 36
    assert not all(skill["at_floor"] for skill in choices)
    assert [one["metric"] for one in found["lm_eval"]["tasks"]] == ["acc", "acc", "acc", "exact_match"]
    assert json.loads(json.dumps(found)) == found
    assert "base: tasks" in first["told"]
    again = measured(finished, task, tmp_path)
    assert again["tasks"] == first["tasks"]
    assert "base: tasks" not in again["told"], "what the base answers is kept"


def test_an_untouched_adapter_loses_nothing(finished: Finished, task: Path, tmp_path: Path) -> None:
    (found,) = measured(finished, task, tmp_path, untouched=True, lm_eval_limit=12)["tasks"]
    assert (found["questions"], found["lost"], found["gained"], found["difference"]) == (48, 0, 0, 0.0)


def test_a_run_asks_at_the_strength_that_it_chooses(
    run_options: Callable[..., RunConfig], hone_home: Path, evaluated_here: None, task: Path
) -> None:
    heard = Listener()
    config = run_options(probes=1, validation=6).model_copy(update={"lm_eval": (str(task),), "lm_eval_limit": 6})
    result = run(config, home=hone_home, recorder=heard)
    (found,) = result["retention"]["tasks"]
    assert found["questions"] == 24
    told = {str(event.data["task"]) for event in heard.of("progress")}
    assert any(one.startswith("strength ") and one.endswith(": tasks") for one in told)
    assert "base: tasks" in told
