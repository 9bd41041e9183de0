"""Plans of a tiny base: the same numbers as the run, what does not fit, what is learnt, and a config alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hone.config import PlanConfig, TrainConfig
from hone.errors import ConfigError
from hone.model.machine import describe_machine
from hone.planning.history import read_history
from hone.recipe.plan import plan, plan_history
from hone.recipe.run import train
from hone.types import JsonDict
from tests.recipe.conftest import Listener, row, write_jsonl

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


# With numbers that the memory would decide otherwise.
_FULL: JsonDict = {"adaptation": "full", "rank": None, "recompute_layers": 2, "micro_batch_tokens": 2048}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(24)]))


@pytest.fixture
def planned(tiny_base: Path, data: str, hone_home: Path) -> Callable[..., JsonDict]:
    def make(**given: Any) -> JsonDict:
        small = {"data": data, "model": str(tiny_base), "device": "cpu", "dtype": "float32", "probe": False}
        options = {**small, "general_rows": 0, **given}
        return plan(PlanConfig.model_validate(options), home=hone_home, note=lambda _text: None)

    return make


def test_every_way_has_its_figures(planned: Callable[..., JsonDict]) -> None:
    found = planned(rate="3600/h")
    names = [one["name"] for one in found["estimates"]]
    assert names == [
        "LoRA rank 16",
        "LoRA rank 64",
        "LoRA rank 16, MLP only",
        "LoRA rank 16, recompute",
        "LoRA rank 16, 4-bit base, recompute",
        "full",
        "full, recompute",
    ]
    by_name = dict(zip(names, found["estimates"], strict=True))
    for one in found["estimates"]:
        assert one["price"] == pytest.approx(one["seconds"], rel=0.01, abs=0.01)
        assert one["fits"] == "yes"
        assert sum(one["seconds_by_cause"].values()) == pytest.approx(one["seconds"], rel=0.01, abs=0.02)
        assert one["memory_by_part"]["total"] == one["peak_memory_bytes"], "nothing is known yet that could correct it"
    # rank x (in + out) of every layer, and of gate, up and down alone
    assert by_name["LoRA rank 64"]["trained_values"] == 4 * by_name["LoRA rank 16"]["trained_values"]
    assert by_name["LoRA rank 16, MLP only"]["trained_values"] == 2 * 16 * 3 * (64 + 96)
    assert by_name["full"]["trained_values"] == found["model"]["parameters"]
    assert found["chosen"]["name"] == "LoRA rank 16"
    assert found["chosen"]["starts"] is True
    assert "arXiv" in found["chosen"]["reason"]


def test_it_plans_what_the_run_does(
    planned: Callable[..., JsonDict], train_options: Callable[..., TrainConfig], data: str, hone_home: Path
) -> None:
    """The same numbers are chosen, the same tokens counted, and the outcome is kept beside the prediction."""
    options: JsonDict = {"rank": None, "epochs": None, "learning_rate": None, "max_steps": 4}
    found = planned(held_out=0, **options)
    listener = Listener()
    result = train(train_options(data=data, **options), home=hone_home, recorder=listener)
    told = {
        event.data["choice"]: (event.data["value"], event.data["reason"])
        for event in listener.of("note")
        if "choice" in event.data
    }
    assert told == {one["name"]: (f"{one['value']:g}", one["reason"]) for one in found["choices"]}
    asked = found["estimates"][0]
    assert asked["steps"] == result["training"]["steps"] == 4
    assert asked["tokens"] == result["training"]["tokens"]
    assert asked["supervised_tokens"] == result["training"]["supervised_tokens"]
    assert asked["trained_values"] == result["training"]["trained_values"]
    compared = result["training"]["plan"]
    assert compared["actual"]["peak_memory_bytes"] > 0
    stored = json.loads((Path(result["run_dir"]) / "plan.json").read_text(encoding="utf-8"))
    assert stored["actual"] | compared["actual"] == stored["actual"]
    [entry] = plan_history(hone_home)["history"]
    assert entry["actual"]["seconds"] == compared["actual"]["seconds"]
    assert planned(held_out=0, **options)["estimates"][0]["corrected_by"] == 1


def test_two_steps_of_the_base_correct_the_formulas(planned: Callable[..., JsonDict], hone_home: Path) -> None:
    found = planned(probe=True)
    [entry] = read_history(hone_home)
    assert entry["kind"] == "probe"
    assert entry["actual"]["seconds"] > 0
    assert found["estimates"][0]["corrected_by"] == 1
    planned(probe=True)
    assert len(read_history(hone_home)) == 1, "once is enough"


def test_a_run_that_cannot_fit_never_starts(
    train_options: Callable[..., TrainConfig], hone_home: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    """Just too little memory: the message has what is needed, what is free, and changes that would fit."""
    rows = write_jsonl(Path(data).parent / "long.jsonl", [_long_row(number) for number in range(24)])
    options = {"data": str(rows), **_FULL}
    # a tiny model is all libraries, which no change of the options makes smaller
    monkeypatch.setattr("hone.planning.peak._FIRST_USE_BYTES", 0)
    needed = _needed(train_options(**options), hone_home)
    monkeypatch.setattr("hone.recipe.ready.memory_for_training", lambda *_: round(needed * 0.8))
    with pytest.raises(ConfigError, match="this run needs about") as raised:
        train(train_options(**options), home=hone_home, recorder=Listener())
    changes = raised.value.details[1:]
    assert 1 <= len(changes) <= 3
    assert all("GB, about" in change for change in changes)
    assert any(change.startswith("--adaptation lora") for change in changes)
    assert "cheapest change that fits" in str(raised.value.remedy)


def test_a_run_within_the_margin_is_not_refused(
    train_options: Callable[..., TrainConfig], hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_steps": 1, **_FULL}
    needed = _needed(train_options(**options), hone_home)
    monkeypatch.setattr("hone.recipe.ready.memory_for_training", lambda *_: round(needed * 0.95))
    assert train(train_options(**options), home=hone_home, recorder=Listener())["training"]["steps"] == 1


def _long_row(number: int) -> JsonDict:
    return {**row(number), "completion": f"the lamp number {number} is lit and the order is on the way " * 3}


def _needed(config: TrainConfig, home: Path) -> int:
    given = {**config.model_dump(by_alias=True), "held_out": 0, "probe": False}
    memory = plan(PlanConfig.model_validate(given), home=home, note=lambda _text: None)["estimates"][0][
        "memory_by_part"
    ]
    return int(memory["total"] - memory["process"])


def test_an_8b_model_is_planned_from_its_config_alone(
    planned: Callable[..., JsonDict], tmp_path: Path, hone_home: Path
) -> None:
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    found = planned(model=str(folder), target_device="h100", dtype=None)
    assert found["model"]["parameters"] == 8_030_261_248  # as its model card's index has it
    assert found["data"]["tokens_are_estimated"] is True
    assert found["machine"]["name"] == "h100"
    lora = found["estimates"][0]
    assert lora["fits"] == "yes"
    assert 16e9 < lora["memory_by_part"]["weights"] < 16.1e9
    assert lora["price"] > 0
    full = next(one for one in found["estimates"] if one["name"].startswith("full"))
    assert full["fits"] == "no"  # 22 bytes for each of 8 thousand million weights
    assert full["limit"].startswith("memory")


def test_it_agrees_with_the_doctor(planned: Callable[..., JsonDict], hone_home: Path) -> None:
    machine, doctor = planned()["machine"], describe_machine(hone_home)
    assert machine["processor"] == doctor["processor"]
    assert machine["chosen"] == doctor["chosen"]
    assert machine["memory"]["total_bytes"] == doctor["memory"]["total_bytes"]
    assert machine["free_bytes"] == pytest.approx(doctor["devices"][0]["free_bytes"], rel=0.2)


def test_what_cannot_be_planned_is_said(planned: Callable[..., JsonDict], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ia3 cannot be planned"):
        planned(adaptation="ia3")
    with pytest.raises(ConfigError, match="the table has no machine 'abacus'"):
        planned(target_device="abacus")
