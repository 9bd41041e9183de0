"""Rows outside of the domain: who wrote them, what is learnt of them, and that a resumed run has the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.config import PlanConfig, TrainConfig
from hone.data.replay_prompts import replay_prompts
from hone.engine.parallel import ALONE
from hone.errors import ConfigError, DataError, InterruptedRunError, StorageError
from hone.evaluation.probes import general_prompts, probe_suite
from hone.planning.choose import choose_replay_rows
from hone.recipe.plan import plan
from hone.recipe.replay import REPLAY_ANSWER_TOKENS, begin_replay
from hone.recipe.run import open_interrupted_run, train
from hone.types import JsonDict
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl

TrainOptions = Callable[..., TrainConfig]


def trained(config: TrainConfig, home: Path, heard: Listener | None = None) -> JsonDict:
    heard = heard or Listener()
    return train(config, home=home, recorder=heard, should_stop=heard.should_stop)


def test_no_prompt_is_one_that_retention_asks() -> None:
    prompts = {" ".join(prompt.lower().split()) for prompt in replay_prompts()}
    assert len(prompts) == len(replay_prompts()) == 64
    asked = {" ".join(text.lower().split()) for item in probe_suite() for text in item.prompts}
    assert not prompts & asked
    assert not prompts & {" ".join(text.lower().split()) for text in general_prompts()}


@pytest.mark.parametrize(("rows", "wanted"), [(1, 1), (10, 2), (108, 17), (1000, 64)])
def test_a_seventh_of_the_rows_and_at_most_all_prompts(rows: int, wanted: int) -> None:
    assert choose_replay_rows(rows).value == wanted


def test_they_are_the_bases_own_answers(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    config = train_options(output=str(tmp_path / "out"), general_rows=3, validation=0)
    result = trained(config, hone_home)
    rows = read_jsonl(tmp_path / "out" / "replay.jsonl")
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    for prompt, found in zip(replay_prompts(), rows, strict=False):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        whole = model.generate(
            torch.tensor([asked]), max_new_tokens=REPLAY_ANSWER_TOKENS, do_sample=False, pad_token_id=0
        )[0].tolist()
        assert found["ids"] == whole
        assert found["supervised"] == [0] * len(asked) + [1] * (len(whole) - len(asked))
    supervised = sum(sum(one["supervised"]) for one in rows)
    assert result["training"]["replay"] == {
        "rows": 3, "supervised_tokens": supervised, "source": "the base's own answers to general prompts",
    }  # fmt: skip


def test_they_are_trained_on_in_every_pass(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    def steps(**given: Any) -> list[JsonDict]:
        name = f"out{len(given)}"
        trained(train_options(output=str(tmp_path / name), validation=0, epochs=3, batch_size=5, **given), hone_home)
        return [line for line in read_jsonl(tmp_path / name / "metrics.jsonl") if line["event"] == "step"]

    without, beside = steps(), steps(general_rows=6)
    assert (len(without), len(beside)) == (3 * 5, 3 * 6)
    added = sum(sum(one["supervised"]) for one in read_jsonl(tmp_path / "out1" / "replay.jsonl"))
    before, after = (sum(line["supervised_tokens"] for line in lines) for lines in (without, beside))
    assert after - before == 3 * added


def test_validation_is_of_the_domain_alone(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    """At a rate of almost nothing both runs validate the untrained model, on the same rows."""

    def loss(name: str, **given: Any) -> float:
        config = train_options(
            output=str(tmp_path / name), validation=4, epochs=1, learning_rate=1e-30, warmup_share=0, **given
        )
        return float(trained(config, hone_home)["training"]["validation_loss"])

    assert loss("without") == loss("beside", general_rows=9)


def test_a_resumed_run_has_the_same_rows(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    def left_in(folder: Path) -> tuple[bytes, bytes]:
        return (folder / "adapter/adapter_model.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()

    options: JsonDict = {"general_rows": 5, "save_every_steps": 2}
    trained(train_options(output=str(tmp_path / "whole"), **options), hone_home)
    with pytest.raises(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "parts"), **options), hone_home, Listener(stop_after=3))
    folder, config = open_interrupted_run(tmp_path / "parts", home=hone_home)
    assert config.general_rows == 5
    train(config, home=hone_home, recorder=Listener(), resume=folder)
    assert left_in(tmp_path / "parts") == left_in(tmp_path / "whole")


def test_damaged_rows_stop_a_resumed_run(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "out"), general_rows=5), hone_home, Listener(stop_after=1))
    (tmp_path / "out" / "replay.jsonl").write_text('{"ids": [1, 2', encoding="utf-8")
    folder, config = open_interrupted_run(tmp_path / "out", home=hone_home)
    with pytest.raises(StorageError, match="rows to replay cannot be read"):
        train(config, home=hone_home, recorder=Listener(), resume=folder)


def test_rows_of_ones_own(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    own = write_jsonl(tmp_path / "general.jsonl", [row(number) for number in range(50, 60)])
    heard = Listener()
    result = trained(
        train_options(output=str(tmp_path / "out"), general_data=str(own), general_rows=4), hone_home, heard
    )
    assert result["training"]["replay"]["rows"] == 4
    assert result["training"]["replay"]["source"] == "4 rows of general.jsonl"
    texts = [one["text"] for one in read_jsonl(tmp_path / "out" / "replay.jsonl")]
    known = [row(number) for number in range(50, 60)]
    assert all(any(one["prompt"] in text and one["completion"] in text for one in known) for text in texts)
    assert len(set(texts)) == 4


def test_rows_of_ones_own_that_cannot_be_rendered(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    bad = [{"prompt": f"<|im_start|>system {number}", "completion": "<|im_end|>"} for number in range(3)]
    own = write_jsonl(tmp_path / "general.jsonl", bad)
    with pytest.raises(DataError, match="no row is left to replay"):
        trained(train_options(output=str(tmp_path / "out"), general_data=str(own), general_rows=3), hone_home)


def test_more_than_there_are(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="65 rows cannot be replayed: hone brings 64"):
        trained(train_options(output=str(tmp_path / "out"), general_rows=65), hone_home)


@pytest.mark.parametrize("asked", [{"general_rows": 3}, {"general_data": "general.jsonl"}])
def test_other_methods_refuse_what_nothing_would_read(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, asked: JsonDict
) -> None:
    pairs = [{"prompt": row(n)["prompt"], "chosen": "it is lit", "rejected": "it is not"} for n in range(24)]
    data = str(write_jsonl(tmp_path / "pairs.jsonl", pairs))
    with pytest.raises(ConfigError, match="dpo has no general rows"):
        trained(train_options(data=data, output=str(tmp_path / "out"), **asked), hone_home)


def test_a_base_without_room_replays_nothing(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hone.recipe.replay.REPLAY_ANSWER_TOKENS", 10_000)
    result = trained(train_options(output=str(tmp_path / "out"), general_rows=3), hone_home)
    assert result["training"]["replay"] == {"rows": 0, "supervised_tokens": 0, "source": "none"}
    assert not (tmp_path / "out" / "replay.jsonl").exists()


def test_a_plan_counts_them(tiny_base: Path, hone_home: Path, tmp_path: Path) -> None:
    data = str(write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(24)]))

    def steps(general_rows: int) -> int:
        options = {"data": data, "model": str(tiny_base), "device": "cpu", "dtype": "float32", "probe": False}
        config = PlanConfig.model_validate(
            {**options, "general_rows": general_rows, "batch_size": 4, "epochs": 1, "validation": 0, "held_out": 4}
        )
        return int(plan(config, home=hone_home, note=lambda _text: None)["estimates"][0]["steps"])

    assert (steps(0), steps(8)) == (5, 7)


def test_a_run_with_general_rows_is_not_resumed_on_a_split_base(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    """There the base's word on them cannot be asked; without them the order of what is left would be another."""
    with pytest.raises(InterruptedRunError):
        trained(train_options(output=str(tmp_path / "out"), general_rows=5), hone_home, Listener(stop_after=1))
    folder, config = open_interrupted_run(tmp_path / "out", home=hone_home)
    loaded: Any = SimpleNamespace(train=[None] * 10)
    with pytest.raises(ConfigError, match="begun with 5 general rows"):
        begin_replay(
            config, Mock(), Mock(), loaded, folder=folder, home=hone_home, parallel=ALONE, sharded=True,
            recorder=Listener(),
        )  # fmt: skip
