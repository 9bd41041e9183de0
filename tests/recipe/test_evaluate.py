"""Evaluation as a job: who answers which rows, held against plain transformers; and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hone.config import EvaluateConfig, RunConfig, TrainConfig
from hone.errors import ConfigError, DataError, VersionError
from hone.recipe.evaluate import EvaluationResult, evaluate
from hone.recipe.run import run, train
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, read_jsonl, row, write_jsonl
from tests.tiny import tiny_model, tiny_tokenizer, without_sums


def asked(version: str | Path, home: Path, heard: Listener | None = None, **given: Any) -> EvaluationResult:
    config = EvaluateConfig.model_validate(
        {"version": str(version), "device": "cpu", "dtype": "float32", "probes": 0, **given}
    )
    return evaluate(config, home=home, recorder=heard or Listener())


@pytest.fixture(scope="module")
def found(finished: Finished) -> EvaluationResult:
    """The finished run's own held-out rows, answered once; tests leave it as it is."""
    return asked("questions", finished.home)


@pytest.fixture(scope="module")
def held_out(finished: Finished) -> list[JsonDict]:
    return read_jsonl(finished.folder / "held_out.jsonl")


# --- what is measured, held against transformers and PEFT ---


def plain_model(finished: Finished, arm: str) -> PreTrainedModel:
    base = tiny_model("llama", max_position_embeddings=512)
    return base if arm == "base" else PeftModel.from_pretrained(base, finished.folder / "adapter").eval()


def prompt_ids(messages: Sequence[JsonDict]) -> list[int]:
    ids = tiny_tokenizer().apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    return list(ids)


@pytest.mark.parametrize("arm", ["base", "tuned"])
def test_answers_are_those_of_transformers_own_generation(
    finished: Finished, found: EvaluationResult, held_out: list[JsonDict], arm: str
) -> None:
    model, tokenizer = plain_model(finished, arm), tiny_tokenizer()
    limit = found.settings["max_new_tokens"]
    for one, answered in zip(held_out, found.answers, strict=True):
        ids = torch.tensor([prompt_ids(one["messages"][:-1])])
        written = model.generate(input_ids=ids, max_new_tokens=limit, do_sample=False, eos_token_id=2, pad_token_id=0)
        new = written[0, ids.shape[1] :].tolist()
        assert answered["answers"][arm] == tokenizer.decode(new, skip_special_tokens=True).strip()
        assert answered["stopped"][arm] is (new[-1] == 2)


def plain_bits(model: PreTrainedModel, messages: Sequence[JsonDict]) -> float:
    """Bits of the last answer and of the token that ends it, given all turns before it."""
    prompt = prompt_ids(messages[:-1])
    ids = [*prompt, *tiny_tokenizer()(messages[-1]["content"], add_special_tokens=False)["input_ids"], 2]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    return -sum(float(logprobs[at - 1, ids[at]]) for at in range(len(prompt), len(ids))) / math.log(2)


@pytest.mark.parametrize("arm", ["base", "tuned"])
def test_bits_per_byte_are_those_of_a_plain_forward_pass(
    finished: Finished, found: EvaluationResult, held_out: list[JsonDict], arm: str
) -> None:
    """Over all rows, by the answers' bytes."""
    model = plain_model(finished, arm)
    bits = sum(plain_bits(model, one["messages"]) for one in held_out)
    num_bytes = sum(len(one["messages"][-1]["content"].encode()) for one in held_out)
    measured = found.evaluation["arms"][arm]["metrics"]["bits_per_byte"]
    assert measured == pytest.approx(bits / num_bytes, abs=1e-4)


def test_the_base_beside_the_adapter_is_the_base_by_itself(finished: Finished, found: EvaluationResult) -> None:
    rows = str(finished.folder / "held_out.jsonl")
    alone = asked(finished.config.model, finished.home, data=rows, max_new_tokens=found.settings["max_new_tokens"])
    for one, both in zip(alone.answers, found.answers, strict=True):
        assert one["answers"] == {"base": both["answers"]["base"]}
    bits = [result.evaluation["arms"]["base"]["metrics"]["bits_per_byte"] for result in (alone, found)]
    assert bits[0] == bits[1]
    assert (alone.verdict, alone.proof) == (None, [])


def test_rows_are_answered_in_their_order(found: EvaluationResult, held_out: list[JsonDict]) -> None:
    assert [one["prompt"] for one in found.answers] == [one["messages"][-2]["content"] for one in held_out]
    assert [one["reference"] for one in found.answers] == [one["messages"][-1]["content"] for one in held_out]


def test_the_proof_of_a_version_is_measured_again(found: EvaluationResult) -> None:
    assert {one.number: one.holds for one in found.proof} == {10: True, 11: True, 12: True}


def test_it_is_the_same_every_time(finished: Finished, found: EvaluationResult) -> None:
    again = asked("questions@1", finished.home)
    assert again.answers == found.answers
    assert again.evaluation["differences"] == found.evaluation["differences"]


def test_progress_is_told_for_each_arm(finished: Finished) -> None:
    heard = Listener()
    asked("questions", finished.home, heard, limit=4, arms=("base", "tuned"), cache=False)
    last = {event.data["task"]: (event.data["done"], event.data["total"]) for event in heard.of("progress")}
    tasks = ("base: answers", "base: likelihood", "tuned: answers", "tuned: likelihood")
    assert last == dict.fromkeys(tasks, (4, 4))


def test_what_the_run_has_answered_is_not_answered_again(finished: Finished) -> None:
    """Registering writes further files beside the adapter, which no answer depends on."""
    heard = Listener()
    asked("questions", finished.home, heard)
    assert heard.of("progress") == []


# --- which rows, which arms, which metric ---


def test_its_own_held_out_rows_are_the_default(finished: Finished, found: EvaluationResult) -> None:
    assert found.data["source"] == str(finished.folder / "held_out.jsonl")
    assert (found.data["rows"], found.data["kept"], found.data["dropped"]) == (8, 8, 0)


def test_other_rows_may_be_given_and_bad_ones_are_counted(finished: Finished, tmp_path: Path) -> None:
    data = write_jsonl(
        tmp_path / "other.jsonl", [row(50), "no json", row(51), {"prompt": "a", "completion": "<|im_end|>"}]
    )
    other = asked("questions", finished.home, data=str(data))
    assert [one["row"] for one in other.answers] == [1, 3]
    assert (other.data["rows"], other.data["kept"], other.data["dropped"]) == (4, 2, 2)


def test_a_limit_takes_the_first_rows(finished: Finished, found: EvaluationResult) -> None:
    assert asked("questions", finished.home, limit=3).answers == found.answers[:3]


@pytest.mark.parametrize("arms", [("tuned",), ("base",)])
def test_one_arm_alone_has_nothing_to_be_compared_with(finished: Finished, arms: tuple[str, ...]) -> None:
    result = asked("questions", finished.home, arms=arms, limit=3)
    assert list(result.evaluation["arms"]) == list(arms)
    assert result.evaluation["differences"] == []
    assert result.verdict is not None
    assert result.verdict.decision == "not_enough_evidence"
    assert (12 in [one.number for one in result.proof]) is ("tuned" in arms)


def test_a_metric_may_be_chosen(finished: Finished) -> None:
    assert asked("questions", finished.home, metric="chrf", limit=3).evaluation["metric"] == "chrf"
    with pytest.raises(ConfigError, match="chrff"):
        asked("questions", finished.home, metric="chrff", limit=3)


def test_the_answers_limit_follows_the_longest_answer_trained_on(finished: Finished, found: EvaluationResult) -> None:
    assert found.settings["max_new_tokens"] == 32, "short answers get room to ramble"
    assert asked("questions", finished.home, max_new_tokens=5, limit=2).settings["max_new_tokens"] == 5


def test_in_a_conversation_the_last_answer_is_asked_for_and_the_earlier_ones_are_given(
    finished: Finished, tmp_path: Path
) -> None:
    first, second = row(60), row(61)
    turns = [
        {"role": "user", "content": first["prompt"]},
        {"role": "assistant", "content": first["completion"]},
        {"role": "user", "content": second["prompt"]},
        {"role": "assistant", "content": second["completion"]},
    ]
    data = write_jsonl(tmp_path / "talk.jsonl", [{"messages": turns}, {"messages": turns[2:]}])
    result = asked("questions", finished.home, data=str(data))
    assert [one["reference"] for one in result.answers] == [second["completion"]] * 2
    assert [one["prompt"] for one in result.answers] == [second["prompt"]] * 2
    model = plain_model(finished, "tuned")
    ids = torch.tensor([prompt_ids(turns[:3])])
    written = model.generate(input_ids=ids, max_new_tokens=32, do_sample=False, eos_token_id=2, pad_token_id=0)
    expected = tiny_tokenizer().decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert result.answers[0]["answers"]["tuned"] == expected
    bits = plain_bits(model, turns) + plain_bits(model, turns[2:])
    measured = result.evaluation["arms"]["tuned"]["metrics"]["bits_per_byte"]
    assert measured == pytest.approx(bits / (2 * len(second["completion"].encode())), abs=1e-4)


# --- what is refused, and what is found out ---


@pytest.mark.parametrize("arm", ["retrieval", "tuned_retrieval"])
def test_arms_that_need_documents_are_refused_without(finished: Finished, arm: str) -> None:
    with pytest.raises(ConfigError, match=arm) as raised:
        asked("questions", finished.home, arms=("base", arm))
    assert raised.value.where == "--arms"
    assert raised.value.why == "no documents were given (--documents)"
    assert raised.value.remedy == "use --arms base,prompted,few_shot,tuned"


def test_a_base_has_no_tuned_arm(finished: Finished) -> None:
    with pytest.raises(ConfigError, match="tuned cannot answer here"):
        asked(finished.config.model, finished.home, data=str(finished.folder / "held_out.jsonl"), arms=("tuned",))


def test_what_has_no_held_out_rows_asks_for_a_file(
    finished: Finished, train_options: Callable[..., TrainConfig], hone_home: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no held-out rows of its own"):
        asked(finished.config.model, finished.home)
    train(train_options(output=str(tmp_path / "out"), max_steps=1), home=hone_home, recorder=Listener())
    with pytest.raises(ConfigError, match="no held-out rows of its own"):
        asked(tmp_path / "out", hone_home)
    data = write_jsonl(tmp_path / "other.jsonl", [row(50), row(51)])
    result = asked(tmp_path / "out", hone_home, data=str(data), max_new_tokens=4)
    assert {one.number for one in result.proof} == {10, 11, 12}


def test_rows_of_which_none_is_usable_stop_with_their_lines(finished: Finished, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "a", "completion": "<|im_end|>"}] * 2)
    with pytest.raises(DataError, match="none of the 2 rows") as raised:
        asked("questions", finished.home, data=str(data))
    assert [detail.partition(": ")[0] for detail in raised.value.details] == [f"{data}:1", f"{data}:2"]


def test_an_unknown_version_is_refused(finished: Finished) -> None:
    with pytest.raises(VersionError):
        asked("questions@9", finished.home)


def test_another_arm_that_is_not_there_is_refused_before_any_arm_answers(finished: Finished) -> None:
    heard = Listener()
    with pytest.raises(VersionError, match="question@7"):
        asked("questions", finished.home, heard, limit=4, against=("question@7",))
    assert not heard.of("progress")


@pytest.fixture
def mine(run_options: Callable[..., RunConfig], hone_home: Path, evaluated_here: None) -> Path:
    """A run's folder that a test may damage."""
    return Path(run(run_options(max_steps=4), home=hone_home, recorder=Listener())["run_dir"])


def zeroed(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor)


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 0.05


@pytest.mark.parametrize("damage", [zeroed, shifted])
def test_an_adapter_that_is_not_the_one_in_memory_is_found_by_the_probe(
    mine: Path, hone_home: Path, damage: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Where the sums do not tell, as in an adapter that was saved wrong, the probe must."""
    assert {one.number: one.holds for one in asked(mine, hone_home).proof}[10]
    path = without_sums(mine / "adapter") / "adapter_model.safetensors"
    tensors = {name: damage(tensor) if "lora_B" in name else tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    proof = {one.number: one for one in asked(mine, hone_home).proof}
    assert not proof[10].holds
    assert "damaged" in proof[10].remedy


def test_rows_that_the_version_was_trained_on_ship_nothing(finished: Finished) -> None:
    result = asked("questions", finished.home, data=finished.config.data, arms=("base", "tuned"))
    assert result.verdict is not None
    assert result.verdict.decision != "ship"
    assert "rows have a prompt that the version was trained on" in result.verdict.warnings[0]
