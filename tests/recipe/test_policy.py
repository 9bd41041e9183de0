"""Reinforcement runs on a tiny base: every method from rows to a version, exact resumption, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hone.config import ProofConfig, RankConfig, RunConfig, TrainConfig
from hone.errors import BadInputError, ConfigError, DataError, InterruptedRunError, ProofError
from hone.model.generate import Generation, generate
from hone.recipe.candidates import contenders_of
from hone.recipe.export_check import make_prompts
from hone.recipe.inference import load_answerer
from hone.recipe.prove import prove
from hone.recipe.rank import prompts_of
from hone.recipe.rewards import GradedAnswer, open_reward, open_stored_reward
from hone.recipe.run import open_interrupted_run, run, train
from hone.types import Example, JsonDict, Message
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl

REWARDS = '''
import math

def letters(prompt, answer, row):
    """How much of the answer is small letters; the prompt and the row are looked at."""
    assert prompt[-1]["role"] == "user" and row["prompt"]
    return sum("a" <= one <= "z" for one in answer) / max(1, len(answer))

def length(prompt, answer, row):
    return len(answer) / 100

def broken(prompt, answer, row):
    return 1 / 0

def nothing(prompt, answer, row):
    return math.nan

def words(prompt, answer, row):
    return "good"

def several(prompt, answer, row):
    import numpy
    return numpy.ones(2)

def endless(prompt, answer, row):
    return 10 ** 400

def alike(prompt, answer, row):
    return 1.0

def leaves(prompt, answer, row):
    raise SystemExit(0)

def huge(prompt, answer, row):
    return 1e308

def two(prompt, answer):
    return 1.0
'''


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
def options(train_options: Callable[..., TrainConfig], asked: Path, rewards: Path) -> Callable[..., TrainConfig]:
    def make(**given: Any) -> TrainConfig:
        small = {"data": str(asked), "reward": f"{rewards}:letters", "group_size": 4, "rollout_tokens": 8,
                 "batch_size": 4, "max_steps": 4, "learning_rate": 2e-2, "epochs": 8}  # fmt: skip
        return train_options(**{**small, **given})

    return make


def test_a_decoder_that_draws_from_other_probabilities_is_found(
    options: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where what writes the answers is not quite what is trained: warmer, or with other rounding."""

    def off(*arguments: Any, **given: Any) -> list[Generation]:
        drawn = generate(*arguments, **given)
        return [replace(one, logprobs=tuple(value - 0.05 for value in one.logprobs)) for one in drawn]

    monkeypatch.setattr("hone.recipe.rollouts.generate", off)
    with pytest.raises(ProofError) as caught:
        train(options(method="grpo"), home=tmp_path / "home", recorder=Listener())
    assert "what writes its answers is not what is trained" in caught.value.render()


def _steps(folder: str | Path) -> list[JsonDict]:
    return [line for line in read_jsonl(Path(folder) / "metrics.jsonl") if line["event"] == "step"]


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo", "raft"])
def test_every_method_raises_the_reward(method: str, options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    steps = 40 if method == "ppo" else 20
    config = options(
        method=method,
        max_steps=steps,
        epochs=steps,
        batch_size=8,
        group_size=8,
        learning_rate=5e-2,
        **({} if method == "raft" else {"kl_weight": 0.0}),
    )
    result = train(config, home=tmp_path / "home", recorder=Listener())
    assert all(invariant["holds"] for invariant in result["proof"]), result["proof"]
    own = [one for one in result["proof"] if f"before the first step of {method}" in one["name"]]
    assert [one["number"] for one in own] == [6]
    assert "drawn from: the ratio is 1" in own[0]["name"]
    found = _steps(result["run_dir"])
    assert len(found) == steps
    assert found[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    first, last = (sum(one["reward"] for one in part) / 4 for part in (found[:4], found[-4:]))
    assert last > first + 0.02, (first, last)
    assert found[-1]["kl"] > 0
    lines = read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")
    each = 2 if method == "ppo" else 1
    assert len(lines) == steps // each * 64
    groups: dict[tuple[int, int], list[JsonDict]] = {}
    for line in lines:
        groups.setdefault((line["step"], line["row"]), []).append(line)
    assert {len(group) for group in groups.values()} == {8}
    if method == "raft":
        best = [
            (max(one["reward"] for one in group), [one for one in group if one["kept"]]) for group in groups.values()
        ]
        assert all(len(kept) <= 1 and all(one["reward"] == most for one in kept) for most, kept in best)
        assert sum(len(kept) for _, kept in best) > len(best) / 2
    elif method != "ppo":
        assert all(abs(sum(one["advantage"] for one in group)) < 0.05 for group in groups.values())
    assert not (Path(result["run_dir"]) / "adapter" / "value.safetensors").exists()
    assert result["training"]["policy"]["method"] == method


@pytest.mark.parametrize("given", [
    {"method": "grpo"}, {"method": "grpo", "policy_epochs": 2}, {"method": "rloo"}, {"method": "ppo"},
    {"method": "raft", "policy_epochs": 2},
])  # fmt: skip
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    given: JsonDict, options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    whole = train(options(**given, max_steps=6), home=home, recorder=Listener())
    config = options(**given, max_steps=6, output=str(tmp_path / "broken"))
    listener = Listener(stop_after=3)
    with pytest.raises(InterruptedRunError):
        train(config, home=home, recorder=listener, should_stop=listener.should_stop)
    folder, config = open_interrupted_run(tmp_path / "broken", home=home)
    resumed = train(config, home=home, recorder=Listener(), resume=folder)
    one, other = Path(whole["run_dir"]), Path(resumed["run_dir"])
    for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl", "metrics.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.usefixtures("evaluated_here")
@pytest.mark.parametrize("with_answers", [False, True])
def test_the_whole_job_is_judged_by_the_held_out_reward(
    with_answers: bool, run_options: Callable[..., RunConfig], asked: Path, rewards: Path, tmp_path: Path
) -> None:
    if with_answers:
        write_jsonl(asked, [row(number) for number in range(24)])
    config = run_options(
        data=str(asked), reward=f"{rewards}:letters", watch_reward=f"{rewards}:length", group_size=4, rollout_tokens=8,
        method="grpo", batch_size=4, max_steps=16, epochs=8, learning_rate=2e-2, held_out=8, name="letters",
    )  # fmt: skip
    result = run(config, home=tmp_path / "home", recorder=Listener())
    assert result["version"] == "letters@1"
    evaluation = result["evaluation"]
    assert evaluation["metric"] == "reward"
    assert evaluation["rows"] == 8
    assert evaluation["arms"]["tuned"]["score"] > evaluation["arms"]["base"]["score"]
    assert {one["metric"] for one in evaluation["other_differences"]} >= {"watch_reward"}
    assert evaluation["differences"][0]["interval"] is not None
    assert all("watch_reward" in one for one in _steps(result["run_dir"]))
    held_out = read_jsonl(Path(result["run_dir"]) / "held_out.jsonl")
    assert all("prompt" in one for one in held_out), "the row's own columns are kept for the grader"
    again = prove(ProofConfig(version="letters"), home=tmp_path / "home", recorder=Listener())
    assert {one.name for one in again.proof if not one.holds} <= {"the model ends its answers"}
    assert len(make_prompts(load_answerer("letters", home=tmp_path / "home", note=print)).references) > 2
    asks = RankConfig(version="letters", n=2)
    contenders = contenders_of(asks, home=tmp_path / "home", note=print)
    assert len(prompts_of(asks, contenders, home=tmp_path / "home", note=print)) == 8


@pytest.mark.parametrize("as_file", [True, False])
def test_a_grader_in_openais_format(options: Callable[..., TrainConfig], tmp_path: Path, as_file: bool) -> None:
    grader = {
        "type": "multi", "name": "both", "calculate_output": "like + 0.5 * same",
        "graders": {
            "like": {"type": "text_similarity", "name": "like", "input": "{{ sample.output_text }}",
                     "reference": "{{ item.reference_answer }}", "evaluation_metric": "fuzzy_match"},
            "same": {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}",
                     "reference": "{{ item.completion }}", "operation": "eq"},
        },
    }  # fmt: skip
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(grader), encoding="utf-8")
    data = write_jsonl(tmp_path / "answered.jsonl", [row(number) for number in range(24)])
    result = train(
        options(method="grpo", data=str(data), reward=str(path) if as_file else json.dumps(grader), max_steps=2),
        home=tmp_path / "home",
        recorder=Listener(),
    )
    assert result["training"]["reward"] == {"kind": "grader", "grader": grader}
    rewards = [line["reward"] for line in read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")]
    assert len(set(rewards)) > 4


@pytest.mark.usefixtures("evaluated_here")
def test_a_reward_model_as_the_reward(
    options: Callable[..., TrainConfig], run_options: Callable[..., RunConfig], tmp_path: Path
) -> None:
    pairs = [
        {"prompt": row(n)["prompt"], "chosen": row(n)["completion"], "rejected": "nobody can tell you"}
        for n in range(24)
    ]
    home = tmp_path / "home"
    judge = run_options(
        data=str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), method="reward", epochs=2, held_out=8, name="judge"
    )
    run(judge, home=home, recorder=Listener())
    result = train(options(method="rloo", reward="judge", max_steps=2), home=home, recorder=Listener())
    assert result["training"]["reward"] == {"kind": "model", "name": "judge@1"}
    assert len({line["reward"] for line in read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")}) > 4


@pytest.mark.usefixtures("evaluated_here")
def test_a_reward_model_has_a_word_on_an_empty_answer(
    options: Callable[..., TrainConfig], run_options: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """What is shown to it is the prompt and the token that ends an answer."""
    home = tmp_path / "home"
    pairs = [{"prompt": row(n)["prompt"], "chosen": "yes", "rejected": "nobody can tell"} for n in range(24)]
    judge = run_options(
        data=str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), method="reward", epochs=2, held_out=8, name="judge"
    )
    folder = run(judge, home=home, recorder=Listener())["run_dir"]
    reward = open_reward(folder, home=home, note=print)
    example = Example((Message("user", "How far is it?"), Message("assistant", ".", supervised=True)))
    scores = reward([GradedAnswer(example, {}, text) for text in ("", "  ", "yes")])
    assert scores[0] == scores[1] != scores[2]
    notes: list[str] = []
    again = open_stored_reward(reward.describe(), home=home, device="cpu", dtype="float32", note=notes.append)
    assert again([GradedAnswer(example, {}, "yes")]) == scores[2:]
    # what it cannot be shown ends no run, and is worth no more than what it can
    lowest = min(0.0, *scores)
    texts = ("", "  ", "yes", "no <|im_end|>", "no " * 600)
    assert again([GradedAnswer(example, {}, text) for text in texts]) == pytest.approx([*scores, lowest, lowest])
    assert [one for one in notes if "2 of 5 answers" in one and "control token" in one]
    with pytest.raises(ConfigError, match="fails on every answer"):
        again([GradedAnswer(example, {}, "<|im_end|>")] * 2)
    assert again([GradedAnswer(example, {}, "<|im_end|>")]) == [0.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reward": None}, "nothing says that"),
        ({"reward": "nowhere:at_all"}, "no module nowhere"),
        ({"reward": "rewards.py:at_all"}, "no function at_all"),
        ({"reward": "gone.json"}, "No such file"),
        ({"reward": "rewards.py"}, "names no function"),
        ({"reward": "rewards.py:broken"}, "ZeroDivisionError"),
        ({"reward": "rewards.py:nothing"}, "finite number"),
        ({"reward": "rewards.py:words"}, "finite number"),
        ({"reward": "rewards.py:several"}, "finite number"),
        ({"reward": "rewards.py:endless"}, "finite number"),
        ({"reward": "rewards.py:huge"}, "finite number"),
        ({"reward": "rewards.py:leaves"}, r"SystemExit: 0 \(line \d+ of .*rewards.py\)"),
        ({"reward": "rewards.py:two"}, "takes 2 positional arguments but 3 were given\n"),
        ({"reward": "grader.json"}, "item.nowhere"),
    ],
)
def test_a_reward_that_cannot_be_used_is_told(
    given: JsonDict, said: str, options: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "operation": "eq",
             "reference": "{{ item.nowhere }}"}  # fmt: skip
    (tmp_path / "grader.json").write_text(json.dumps(check), encoding="utf-8")
    with pytest.raises(BadInputError, match=said) as caught:
        train(options(method="grpo", **given), home=tmp_path / "home", recorder=Listener())
    assert caught.value.exit_code == 2
    assert "--reward" in caught.value.render()


def test_rows_and_options_that_do_not_go_with_it(options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 12)
    with pytest.raises(DataError, match="preferences"):
        train(options(method="grpo", data=str(pairs)), home=tmp_path / "home", recorder=Listener())
    for given, named in (
        ({"method": "dpo", "reward": "a:b"}, "reward"), ({"method": "ppo", "loss_normalisation": "dapo"}, "loss_norm"),
        ({"method": "grpo", "reward": "a:b", "validation": 4}, "validation"), ({"method": "grpo", "beta": 0.1}, "beta"),
        ({"method": "raft", "clip_range": 0.1}, "clip_range"), ({"method": "sft", "clip_range": "0.3"}, "clip_range"),
        ({"method": "rloo", "scale_advantages": False}, "scale_advantages"),
        ({"method": "raft", "kl_weight": 0.0}, "kl_weight"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            TrainConfig.model_validate({"data": "rows.jsonl", **given})
    stored = {"clip_range": 0.2, "scale_advantages": True}  # stands in every stored configuration
    assert TrainConfig.model_validate({"data": "rows.jsonl", "method": "sft", **stored}).clip_range == 0.2


@pytest.mark.parametrize(
    "given",
    [
        {"method": "grpo", "recompute_layers": 2},
        {"method": "ppo", "reference_path": True},
        {"method": "rloo", "adaptation": "full", "rank": None, "learning_rate": 1e-3},
        {"method": "grpo", "loss_normalisation": "dapo", "scale_advantages": False, "kl_weight": 0.0},
        {"method": "grpo", "loss_normalisation": "dr_grpo", "micro_batch_tokens": 64},
    ],
)
def test_other_ways_of_training(given: JsonDict, options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    result = train(options(**given, max_steps=3), home=tmp_path / "home", recorder=Listener())
    assert all(invariant["holds"] for invariant in result["proof"]), result["proof"]
    steps = _steps(result["run_dir"])
    assert len(steps) == 3
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-5)


def test_where_all_answers_are_worth_the_same_raft_learns_nothing(
    options: Callable[..., TrainConfig], rewards: Path, tmp_path: Path
) -> None:
    config = options(method="raft", reward=f"{rewards}:alike", max_steps=2)
    result = train(config, home=tmp_path / "home", recorder=Listener())
    steps = _steps(result["run_dir"])
    assert [(one["loss"], one["gradient_norm"], one["undecided_groups"]) for one in steps] == [(0.0, 0.0, 1.0)] * 2
    assert not any(one["kept"] for one in read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl"))
