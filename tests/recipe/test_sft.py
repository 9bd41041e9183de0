"""Supervised fine-tuning as a job: what it leaves, that it repeats and resumes to the byte, and where it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from hone.config import TrainConfig, load_config
from hone.data.pack import PackedBatch, Segment
from hone.engine.events import Event
from hone.errors import ConfigError, InterruptedRunError, ProofError, StorageError, TrainingError, VersionError
from hone.model.forward import packed_logprobs
from hone.recipe.run import open_interrupted_run, train
from hone.registry import RunFolder
from hone.types import JsonDict
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl

TrainOptions = Callable[..., TrainConfig]
ADAPTER = "adapter/adapter_model.safetensors"


def trained(config: TrainConfig, home: Path, heard: Listener | None = None) -> JsonDict:
    heard = heard or Listener()
    return train(config, home=home, recorder=heard, should_stop=heard.should_stop)


def resumed(folder: Path, home: Path, heard: Listener | None = None) -> JsonDict:
    run, config = open_interrupted_run(folder, home=home)
    return train(config, home=home, recorder=heard or Listener(), resume=run)


def left_in(folder: Path) -> tuple[bytes, bytes]:
    """What training leaves, to the byte: the adapter and the measured figures."""
    return (folder / ADAPTER).read_bytes(), (folder / "metrics.jsonl").read_bytes()


# --- what it leaves ---


def test_it_learns_and_leaves_a_readable_folder(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    heard = Listener()
    result = trained(train_options(output=str(tmp_path / "out"), epochs=4), hone_home, heard)
    folder = tmp_path / "out"
    assert result["run_dir"] == str(folder)
    expected = {
        "adapter", "audit.json", "checkpoints", "config.yaml", "ledger.jsonl", "log.txt", "manifest.json",
        "metrics.jsonl", "plan.json", "probe.safetensors", "proof.json", "result.json", "run.json", "timings.jsonl",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == expected
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == result
    steps = [line for line in read_jsonl(folder / "metrics.jsonl") if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, result["training"]["steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] - 1.0
    assert len(heard.of("step")) == len(steps)


def test_the_figures_of_training_add_up(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    result = trained(train_options(output=str(tmp_path / "out"), validation=0), hone_home)
    training, data = result["training"], result["data"]
    assert (training["method"], training["steps"], training["total_steps"]) == ("sft", 12, 12)
    assert data["rows"] == data["kept"] == data["train"] == 24
    assert (data["cut"], data["dropped"], data["held_out"], data["validation"]) == (0, 0, 0, 0)
    steps = [line for line in read_jsonl(tmp_path / "out" / "metrics.jsonl") if line["event"] == "step"]
    assert training["tokens"] == sum(line["tokens"] for line in steps)
    assert training["supervised_tokens"] == sum(line["supervised_tokens"] for line in steps)
    assert 0 < training["supervised_tokens"] < training["tokens"]
    assert training["tokens_per_second"] == pytest.approx(training["tokens"] / training["seconds"], rel=0.05)
    assert training["peak_memory_bytes"] > 10**8
    assert training["adapted_layers"] == 14


def test_the_stored_config_is_the_whole_run_again(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    """Every number stands in it, and it gives the same adapter."""
    trained(train_options(output=str(tmp_path / "out"), rank=None, epochs=None, max_steps=8), hone_home)
    stored = load_config(TrainConfig, {}, file=tmp_path / "out" / "config.yaml")
    chosen = stored.model_dump()
    open_values = {name for name, value in chosen.items() if value is None}
    of_other_methods = {
        "beta", "target_margin", "length_normalised", "start_from", "reward", "watch_reward", "group_size", "kl_weight",
        "policy_epochs", "rollout_tokens", "loss_normalisation", "teacher",
    }  # fmt: skip
    assert open_values - of_other_methods == {
        "mapping", "save_every_steps", "layers", "add_tokens", "memory_budget", "quantize", "general_data",
        "split_seed",
    }  # fmt: skip
    trained(stored.model_copy(update={"output": tmp_path / "again"}), hone_home)
    assert left_in(tmp_path / "again") == left_in(tmp_path / "out")


def test_what_the_user_gave_is_never_changed(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    given = {
        "rank": 3, "alpha": 5.0, "epochs": 1, "batch_size": 5, "learning_rate": 3e-3, "max_length": 200,
        "warmup_share": 0.25, "micro_batch_tokens": 70, "seed": 9, "validation": 0,
    }  # fmt: skip
    heard = Listener()
    result = trained(train_options(output=str(tmp_path / "out"), **given), hone_home, heard)
    stored = load_config(TrainConfig, {}, file=tmp_path / "out" / "config.yaml").model_dump()
    assert {name: stored[name] for name in given} == given
    assert stored["dtype"] == result["base"]["dtype"], (
        "chosen once: a resumed run and its evaluation do not choose again"
    )
    assert result["training"]["steps"] == 5
    adapter = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"]) == (3, 5)


def test_each_choice_is_told_with_its_reason(train_options: TrainOptions, hone_home: Path) -> None:
    heard = Listener()
    trained(train_options(rank=None, max_steps=1), hone_home, heard)
    told = {event.data["choice"]: event.data for event in heard.of("note") if "choice" in event.data}
    assert {"rank", "learning_rate", "batch_size", "epochs", "max_length"} <= told.keys()
    assert told["learning_rate"]["reason"] == "as given"
    assert told["rank"]["reason"] != "as given"
    assert all(data["reason"] in data["text"] for data in told.values())


def test_the_proof_is_written_with_its_figures(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    result = trained(train_options(output=str(tmp_path / "out"), max_steps=2), hone_home)
    assert json.loads((tmp_path / "out" / "proof.json").read_text(encoding="utf-8")) == result["proof"]
    assert {one["number"]: one["holds"] for one in result["proof"]} == dict.fromkeys(range(1, 10), True)


def notes_of(folder: Path) -> JsonDict:
    notes: JsonDict = json.loads((folder / "adapter" / "hone.json").read_text(encoding="utf-8"))
    return notes


def test_what_a_loader_must_know_stands_beside_the_adapter(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, tiny_base: Path
) -> None:
    result = trained(train_options(output=str(tmp_path / "out"), max_steps=1), hone_home)
    notes = notes_of(tmp_path / "out")
    assert notes["base_name"] == str(tiny_base)
    assert notes["base_hash"] == result["base"]["hash"]
    assert notes["template"]["stop_tokens"] == ["<|im_end|>"]
    assert notes["shape"]["kind"] == "short"
    assert notes["reference_path"] is False
    assert 5 <= notes["longest_answer_tokens"] <= 20


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (["be brief"] * 12, "be brief"),
        (["be brief"] * 11 + ["be kind"], None),
        (["be brief"] * 11 + [None], None),
        ([None] * 12, None),
    ],
    ids=["shared", "two", "one without", "none"],
)
def test_a_system_prompt_that_all_rows_share_is_kept(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, systems: list[str | None], expected: str | None
) -> None:
    rows = []
    for number, system in enumerate(systems):
        turns = [{"role": "system", "content": system}] if system else []
        one = row(number)
        turns += [{"role": "user", "content": one["prompt"]}, {"role": "assistant", "content": one["completion"]}]
        rows.append({"messages": turns})
    data = write_jsonl(tmp_path / "talk.jsonl", rows)
    trained(train_options(data=str(data), output=str(tmp_path / "out"), max_steps=1), hone_home)
    assert notes_of(tmp_path / "out")["system_prompt"] == expected


# --- the same again ---


def test_the_same_options_give_the_same_bytes_and_another_seed_does_not(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        trained(train_options(output=str(tmp_path / name), max_steps=4, seed=seed), hone_home)
    assert left_in(tmp_path / "one") == left_in(tmp_path / "two")
    assert left_in(tmp_path / "one")[0] != left_in(tmp_path / "other")[0]


@pytest.mark.parametrize("changed", [{"micro_batch_tokens": 40}, {"reference_path": True}])
def test_how_it_is_computed_does_not_change_what_is_learned(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Accumulation from single rows, and padded rows with the model's own attention: the adapter is the same."""
    trained(train_options(output=str(tmp_path / "one"), max_steps=5), hone_home)
    trained(train_options(output=str(tmp_path / "two"), max_steps=5, **changed), hone_home)
    one, two = load_file(tmp_path / "one" / ADAPTER), load_file(tmp_path / "two" / ADAPTER)
    for name, tensor in one.items():
        # AdamW turns a rounding of the gradient into at most a small part of a step (5e-3)
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_the_reference_path_never_attends_over_packed_rows(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the packed path was taken")

    monkeypatch.setattr("hone.model.attention.packed_attention", refuse)
    with pytest.raises(AssertionError):
        trained(train_options(output=str(tmp_path / "packed"), max_steps=1), hone_home)
    result = trained(train_options(output=str(tmp_path / "out"), max_steps=2, reference_path=True), hone_home)
    assert notes_of(tmp_path / "out")["reference_path"] is True
    assert all(one["holds"] for one in result["proof"])


# --- interrupted and gone on with ---


class Killed(Listener):
    """The process dies right after some step, with no time to save."""

    def __init__(self, at_step: int) -> None:
        super().__init__()
        self.at_step = at_step

    def record(self, event: Event) -> None:
        super().record(event)
        if event.kind == "step" and event.data["step"] == self.at_step:
            raise KeyboardInterrupt


# 20 rows to train on and 4 to validate with, 4 a step: five steps an epoch, validated and saved at its end.
@pytest.mark.parametrize("save_every_steps", [None, 3])
@pytest.mark.parametrize(
    "heard",
    [Listener(stop_after=3), Listener(stop_after=5), Killed(7), Killed(2)],
    ids=["stop in an epoch", "stop at its end", "killed in the second", "killed in the first"],
)
def test_a_resumed_run_leaves_the_bytes_of_one_that_was_never_interrupted(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, heard: Listener, save_every_steps: int | None
) -> None:
    options = {"batch_size": 4, "validation": 4, "save_every_steps": save_every_steps}
    whole = trained(train_options(output=str(tmp_path / "whole"), **options), hone_home)
    heard.events.clear()
    with pytest.raises(InterruptedRunError) as stopped:
        trained(train_options(output=str(tmp_path / "broken"), **options), hone_home, heard)
    assert f"hone train --resume {tmp_path / 'broken'}" in str(stopped.value.remedy)
    assert RunFolder.open(tmp_path / "broken").status == "interrupted"
    assert not (tmp_path / "broken" / ADAPTER).exists()
    told = Listener()
    result = resumed(tmp_path / "broken", hone_home, told)
    reasons = {event.data["reason"] for event in told.of("note") if "choice" in event.data}
    assert reasons == {"as the run was begun with (config.yaml)"}, "the user gave none of them now"
    assert left_in(tmp_path / "broken") == left_in(tmp_path / "whole")
    clock = ("seconds", "tokens_per_second", "peak_memory_bytes", "plan")
    assert {key: value for key, value in result["training"].items() if key not in clock} == {
        key: value for key, value in whole["training"].items() if key not in clock
    }
    assert [one for one in result["proof"] if one["number"] != 7] == [
        one for one in whole["proof"] if one["number"] != 7
    ]
    assert RunFolder.open(tmp_path / "broken").status == "done"


def test_a_run_does_not_go_on_with_other_rows(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    config = train_options(output=str(tmp_path / "broken"), save_every_steps=2)
    with pytest.raises(InterruptedRunError):
        trained(config, hone_home, Listener(stop_after=3))
    data, manifest = Path(config.data), (tmp_path / "broken" / "manifest.json").read_bytes()
    rows = data.read_bytes()
    data.write_bytes(rows.split(b"\n", 2)[2])
    with pytest.raises(ConfigError, match="not those that this run was begun with") as caught:
        resumed(tmp_path / "broken", hone_home)
    assert "train rows: " in caught.value.render()
    assert (tmp_path / "broken" / "manifest.json").read_bytes() == manifest, "the record stays true"
    data.write_bytes(rows)
    resumed(tmp_path / "broken", hone_home)
    assert RunFolder.open(tmp_path / "broken").status == "done"


def test_it_can_be_interrupted_again_and_again(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    trained(train_options(output=str(tmp_path / "whole")), hone_home)
    with pytest.raises(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "broken")), hone_home, Listener(stop_after=1))
    for _ in range(3):
        run, config = open_interrupted_run(tmp_path / "broken", home=hone_home)
        heard = Listener(stop_after=2)
        with pytest.raises(InterruptedRunError):
            train(config, home=hone_home, recorder=heard, should_stop=heard.should_stop, resume=run)
        assert len(heard.of("step")) == 2
    resumed(tmp_path / "broken", hone_home)
    assert left_in(tmp_path / "broken") == left_in(tmp_path / "whole")


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    options = {"save_every_steps": 2}
    trained(train_options(output=str(tmp_path / "whole"), **options), hone_home)
    with pytest.raises(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "broken"), **options), hone_home, Listener(stop_after=6))
    newest = tmp_path / "broken" / "checkpoints" / "step-000006" / "adapter.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    resumed(tmp_path / "broken", hone_home)
    assert left_in(tmp_path / "broken") == left_in(tmp_path / "whole")
    assert "step-000006 is damaged" in (tmp_path / "broken" / "log.txt").read_text(encoding="utf-8")


def test_a_finished_run_is_not_resumed(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    trained(train_options(output=str(tmp_path / "out"), max_steps=1), hone_home)
    with pytest.raises(ConfigError, match="is finished"):
        open_interrupted_run(tmp_path / "out", home=hone_home)
    with pytest.raises(ConfigError, match="finished run"):
        trained(train_options(output=str(tmp_path / "out"), max_steps=1), hone_home)


def test_what_is_no_run_is_not_resumed(hone_home: Path, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="holds no run"):
        open_interrupted_run(tmp_path, home=hone_home)


# --- where it stops ---


def nothing_was_trained(folder: Path) -> bool:
    return not (folder / "adapter").exists() and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("max_steps", [1, 2, None])
@pytest.mark.parametrize("validation", [0, 4])
def test_a_learning_rate_that_breaks_the_numbers_ends_in_an_error_and_no_adapter(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, max_steps: int | None, validation: int
) -> None:
    """Also where no further step is left in which the loss could show it."""
    config = train_options(output=str(tmp_path / "out"), learning_rate=1e30, max_steps=max_steps, validation=validation)
    with pytest.raises(TrainingError, match=r"nan|inf|not finite") as raised:
        trained(config, hone_home)
    assert raised.value.exit_code == 1
    assert "--learning-rate" in str(raised.value.remedy)
    assert not (tmp_path / "out" / "adapter").exists()
    record = RunFolder.open(tmp_path / "out").record()
    assert record["status"] == "failed"
    assert "--learning-rate" in record["error"]


def test_a_base_with_broken_weights_is_found_before_training(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, own_base: Path
) -> None:
    tensors = load_file(own_base / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, own_base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProofError, match="nothing was trained"):
        trained(train_options(output=str(tmp_path / "out"), model=str(own_base)), hone_home)
    assert nothing_was_trained(tmp_path / "out")
    assert RunFolder.open(tmp_path / "out").record()["status"] == "failed"


def test_a_packing_leak_stops_the_run_before_training(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        whole = Segment(0, len(batch.ids_T), 0, None)
        return packed_logprobs(model, replace(batch, segments=(whole,), leaves=(0,) * len(batch.leaves)))

    monkeypatch.setattr("hone.recipe.inference.packed_logprobs", leaking)
    with pytest.raises(ProofError) as raised:
        trained(train_options(output=str(tmp_path / "out")), hone_home)
    assert [detail.partition(".")[0] for detail in raised.value.details] == ["3", "4", "5"]
    assert "--reference-path" in str(raised.value.remedy)
    assert nothing_was_trained(tmp_path / "out")
    trained(train_options(output=str(tmp_path / "out"), reference_path=True, max_steps=1), hone_home)


def test_a_disk_that_cannot_hold_the_run_is_found_before_training(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [100_000]

    class Usage:
        def __getattr__(self, name: str) -> int:
            return free[0]

    monkeypatch.setattr("hone.files.shutil.disk_usage", lambda path: Usage())
    with pytest.raises(StorageError):
        trained(train_options(output=str(tmp_path / "out")), hone_home)
    assert nothing_was_trained(tmp_path / "out")
    free[0] = 10**12
    trained(train_options(output=str(tmp_path / "out"), max_steps=1), hone_home)
    assert (tmp_path / "out" / ADAPTER).is_file()


def test_an_interrupt_before_the_training_leaves_a_folder_that_can_be_used_again(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    class StopsWhileLoading(Listener):
        def record(self, event: Event) -> None:
            if event.kind == "stage" and event.data["name"] == "data":
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="before the training began"):
        trained(train_options(output=str(tmp_path / "out")), hone_home, StopsWhileLoading())
    with pytest.raises(ConfigError, match="before it had begun to train"):
        open_interrupted_run(tmp_path / "out", home=hone_home)
    with suppress(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "out"), max_steps=1), hone_home)
    assert (tmp_path / "out" / ADAPTER).is_file()
