"""Plans of methods that write their own answers: the counts of the run, its answers' lengths, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hone.config import PlanConfig, TrainConfig
from hone.errors import ConfigError, DataError
from hone.planning.history import read_history
from hone.recipe.plan import plan, plan_history
from hone.recipe.run import train
from hone.types import JsonDict
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl

REWARDS = """
import time

def letters(prompt, answer, row):
    return sum("a" <= one <= "z" for one in answer) / max(1, len(answer))

def slow(prompt, answer, row):
    time.sleep(0.02)
    return len(answer)

def broken(prompt, answer, row):
    return 1 / 0
"""
SMALL: JsonDict = {"group_size": 4, "rollout_tokens": 8, "batch_size": 4, "max_steps": 4, "epochs": 8}


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS, encoding="utf-8")
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Prompts without any answer."""
    return write_jsonl(tmp_path / "asked.jsonl", [{"prompt": row(number)["prompt"]} for number in range(24)])


@pytest.fixture
def planned(tiny_base: Path, asked: Path, rewards: Path, hone_home: Path) -> Callable[..., JsonDict]:
    def make(**given: Any) -> JsonDict:
        small = {"data": str(asked), "model": str(tiny_base), "device": "cpu", "dtype": "float32", "probe": False}
        small |= {"reward": f"{rewards}:letters", "method": "grpo", "held_out": 0, "rank": 4, **SMALL}
        return plan(PlanConfig.model_validate({**small, **given}), home=hone_home, note=lambda _text: None)

    return make


@pytest.fixture
def trained(
    train_options: Callable[..., TrainConfig], asked: Path, rewards: Path, hone_home: Path
) -> Callable[..., JsonDict]:
    def make(**given: Any) -> JsonDict:
        small = {"data": str(asked), "reward": f"{rewards}:letters", "method": "grpo", **SMALL}
        return train(train_options(**{**small, **given}), home=hone_home, recorder=Listener())

    return make


@pytest.mark.parametrize("given", [{}, {"method": "rloo", "policy_epochs": 2}, {"method": "ppo", "max_steps": 5}])
def test_it_plans_what_the_run_does(
    given: JsonDict, planned: Callable[..., JsonDict], trained: Callable[..., JsonDict], hone_home: Path
) -> None:
    """As many steps, prompts and answers; and, counted with the answers that were written, as many tokens."""
    before = planned(**given)["estimates"][0]
    result = trained(**given)
    training = result["training"]
    lines = read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")
    assert before["steps"] == training["steps"] == given.get("max_steps", 4)
    assert before["rollouts"]["answers"] == len(lines)
    # nothing told how long answers would be: they are taken to be the longest
    assert before["rollouts"]["answer_tokens"] == before["rollouts"]["most_answer_tokens"] == 8
    assert before["rollouts"]["most_seconds"] == before["seconds"]
    assert before["tokens"] >= training["tokens"]
    assert before["trained_values"] == training["trained_values"]
    [entry] = read_history(hone_home)
    assert entry["key"].endswith("/writing")
    assert entry["tokens"] == training["tokens"]
    assert sorted(entry["answers"]["tokens"]) == sorted(one["tokens"] + one["ended"] for one in lines)
    after = planned(**given)["estimates"][0]
    assert after["corrected_by"] == 1
    assert after["supervised_tokens"] == pytest.approx(training["supervised_tokens"], rel=0.05)
    assert after["rollouts"]["answer_tokens"] == pytest.approx(
        sum(entry["answers"]["tokens"]) / len(entry["answers"]["tokens"]), rel=0.05
    )
    # answers of another length are no error of the formulas
    assert entry["formula"]["seconds"] <= entry["predicted"]["seconds"] + 1e-3


def test_reference_answers_say_how_long_answers_are(planned: Callable[..., JsonDict], tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "answered.jsonl", [row(number) for number in range(24)])
    found = planned(data=str(rows), rollout_tokens=None)
    rollouts = found["estimates"][0]["rollouts"]
    assert 1 < rollouts["answer_tokens"] < rollouts["most_answer_tokens"]
    assert found["estimates"][0]["seconds"] < rollouts["most_seconds"]
    assert any(
        "as long as the reference answers; the reward's own time is not counted" in one for one in found["notes"]
    )
    # half as long again as the longest reference answer, as the run chooses it
    assert rollouts["most_answer_tokens"] >= 1.5 * rollouts["answer_tokens"]


def test_every_way_is_planned_and_other_methods_have_no_rollouts(
    planned: Callable[..., JsonDict], tmp_path: Path
) -> None:
    found = planned(rate="3600/h")
    assert len(found["estimates"]) == 7
    for one in found["estimates"]:
        assert one["price"] == pytest.approx(one["seconds"], rel=0.01, abs=0.01)
        assert one["rollouts"]["most_price"] == pytest.approx(one["rollouts"]["most_seconds"], rel=0.01, abs=0.01)
        assert sum(one["seconds_by_cause"].values()) == pytest.approx(one["seconds"], rel=0.01, abs=0.02)
    assert {"reading prompts", "writing answers", "log-probabilities of the answers"} <= set(
        found["estimates"][0]["seconds_by_cause"]
    )
    rows = write_jsonl(tmp_path / "answered.jsonl", [row(number) for number in range(24)])
    plain = planned(data=str(rows), method=None, reward=None, group_size=None, rollout_tokens=None)
    assert plain["estimates"][0]["rollouts"] is None
    assert "writing answers" not in plain["estimates"][0]["seconds_by_cause"]


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_the_answers_of_one_step_are_written_once(
    method: str, planned: Callable[..., JsonDict], rewards: Path, hone_home: Path
) -> None:
    """The probe never asks the user's reward, which would fail here."""
    found = planned(probe=True, method=method, reward=f"{rewards}:broken")
    [entry] = read_history(hone_home)
    assert entry["kind"] == "probe"
    assert entry["actual"]["seconds"] > 0
    assert len(entry["answers"]["tokens"]) == 4 * 4
    assert found["estimates"][0]["corrected_by"] == 1
    assert any("as long as this base wrote before to these rows" in one for one in found["notes"])
    planned(probe=True, method=method, reward=f"{rewards}:broken")
    assert len(read_history(hone_home)) == 1, "once is enough"


def test_what_the_reward_takes_is_not_compared(
    trained: Callable[..., JsonDict], rewards: Path, hone_home: Path
) -> None:
    result = trained(reward=f"{rewards}:slow", max_steps=2)
    stored = json.loads((Path(result["run_dir"]) / "plan.json").read_text(encoding="utf-8"))
    assert stored["grading_seconds"] > 2 * 16 * 0.02
    assert stored["actual"]["seconds"] + stored["grading_seconds"] == pytest.approx(
        result["training"]["seconds"], rel=0.5
    )
    [entry] = plan_history(hone_home)["history"]
    assert entry["actual"]["seconds"] == stored["actual"]["seconds"]


def test_what_would_fit_is_said_and_nobody_is_refused(
    planned: Callable[..., JsonDict], trained: Callable[..., JsonDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer or shorter answers are among the changes that would make it fit."""
    large: JsonDict = {"group_size": 64, "rollout_tokens": 100, "batch_size": 8, "recompute_layers": 2, "max_steps": 1}
    monkeypatch.setattr("hone.planning.peak._FIRST_USE_BYTES", 0)
    memory = planned(**large)["estimates"][0]["memory_by_part"]
    free = round(0.8 * (memory["total"] - memory["process"]))
    monkeypatch.setattr("hone.recipe.plan._device_of", lambda machine, device: {"free_bytes": free})
    found = planned(**large)
    assert not found["chosen"]["starts"]
    changes = [one["options"] for one in found["chosen"]["remedies"]]
    assert {"--group-size 32", "--rollout-tokens 50"} & set(changes), changes
    monkeypatch.setattr("hone.recipe.ready.memory_for_training", lambda *_: free)
    assert trained(**large)["training"]["steps"] == 1


def test_prompts_that_leave_no_room_are_said(planned: Callable[..., JsonDict]) -> None:
    with pytest.raises(DataError, match="no prompt leaves room for an answer"):
        planned(rollout_tokens=512)


def test_a_reward_is_needed_to_plan_with(planned: Callable[..., JsonDict]) -> None:
    with pytest.raises(ConfigError, match="nothing says that"):
        planned(reward=None)
