"""Preference runs on a tiny base: every method from rows to a version, its first loss, its reference, its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hone.config import ChatConfig, ProofConfig, RewardConfig, RunConfig, TrainConfig
from hone.data.answers import AnswerRenderer
from hone.data.loader import load_examples
from hone.errors import ConfigError, ModelError
from hone.model.merge import merge_and_save
from hone.recipe.answer import open_conversation
from hone.recipe.export_check import make_prompts
from hone.recipe.gate import evaluation_against
from hone.recipe.inference import load_answerer
from hone.recipe.method import choose_method
from hone.recipe.prove import prove
from hone.recipe.reward import answer_scores, score_answers
from hone.recipe.run import run, train
from hone.recipe.versions_diff import diff_versions
from hone.registry.versions import resolve_version
from hone.types import JsonDict
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl

FIRST_LOSS = {"dpo": math.log(2), "ipo": 1 / (4 * 0.1**2), "kto": 0.5, "reward": math.log(2)}


def pair(number: int) -> JsonDict:
    """Two answers to a question; the right one is preferred."""
    asked = row(number)
    return {"prompt": asked["prompt"], "chosen": asked["completion"], "rejected": "nobody can tell you"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", [pair(number) for number in range(40)])


def _steps(folder: str) -> list[JsonDict]:
    return [line for line in read_jsonl(Path(folder) / "metrics.jsonl") if line["event"] == "step"]


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto", "orpo", "simpo", "reward"])
def test_every_method_learns_what_is_preferred(
    method: str, pairs: Path, train_options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = train_options(data=str(pairs), method=method, epochs=6, early_stop=False, validation=8)
    result = train(config, home=tmp_path / "home", recorder=Listener())
    assert all(invariant["holds"] for invariant in result["proof"]), result["proof"]
    own = [one for one in result["proof"] if "before the first step" in one["name"]]
    assert [one["number"] for one in own] == [6]
    steps = _steps(result["run_dir"])
    if method in FIRST_LOSS:
        assert steps[0]["loss"] == pytest.approx(FIRST_LOSS[method], rel=1e-4), "reference equals base"
    assert result["training"]["method"] == method
    validated = [line["loss"] for line in read_jsonl(Path(result["run_dir"]) / "metrics.jsonl")
                 if line["event"] == "validation"]  # fmt: skip
    assert validated[-1] < 0.6 * validated[0] or validated[-1] < 0.05 * steps[0]["loss"]


def test_the_method_follows_from_the_rows(train_options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    judged = [
        {"prompt": one["prompt"], "completion": one["chosen" if n % 2 else "rejected"], "label": bool(n % 2)}
        for n, one in enumerate(map(pair, range(24)))
    ]
    config = train_options(data=str(write_jsonl(tmp_path / "judged.jsonl", judged)), max_steps=2)
    result = train(config, home=tmp_path / "home", recorder=Listener())
    assert result["training"]["method"] == "kto"
    assert result["training"]["preference"]["beta"] == 0.1


@pytest.mark.parametrize(
    ("method", "rows", "reason"),
    [
        ("sft", [pair(n) for n in range(12)], "compare or judge"),
        ("dpo", [row(n) for n in range(12)], "one answer each"),
        ("dpo", [{**row(n), "label": True} for n in range(12)], "judge one each"),
    ],
)
def test_a_method_that_does_not_go_with_the_rows_is_refused(
    method: str, rows: list[Any], reason: str, train_options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = train_options(data=str(write_jsonl(tmp_path / "rows.jsonl", rows)), method=method)
    with pytest.raises(ConfigError, match="does not go with the rows") as caught:
        train(config, home=tmp_path / "home", recorder=Listener())
    assert reason in caught.value.render()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "sft", "beta": 0.1}, "beta"),
        ({"method": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"method": "dpo", "target_margin": 1.0}, "target_margin"),
        ({"method": "kto", "length_normalised": False}, "length_normalised"),
        ({"method": "reward", "adaptation": "full"}, "method = reward"),
    ],
)
def test_options_without_an_effect_are_refused(options: JsonDict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainConfig.model_validate({"data": "rows.jsonl", **options})


def test_several_devices_are_refused(pairs: Path, train_options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one device"):
        train(train_options(data=str(pairs), devices=2), home=tmp_path / "home", recorder=Listener())


def test_several_processes_of_torchrun_are_refused(
    pairs: Path, train_options: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its users leave --devices out, so that the option says nothing of how many there are."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match="one device"):
        choose_method(train_options(data=str(pairs)), load_examples(str(pairs), preferences=True))


def test_references_are_computed_once_and_kept_by_content(
    pairs: Path, train_options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    home = tmp_path / "home"

    def losses(**more: Any) -> tuple[list[float], bool]:
        heard = Listener()
        result = train(train_options(data=str(pairs), max_steps=2, **more), home=home, recorder=heard)
        computed = any(event.data["task"] == "reference" for event in heard.of("progress"))
        return [step["loss"] for step in _steps(result["run_dir"])], computed

    first, computed = losses()
    again, computed_again = losses()
    assert computed
    assert not computed_again
    assert first == again
    (kept,) = (home / "cache" / "references").iterdir()
    whole = kept.read_text(encoding="utf-8")
    value = json.loads(whole)
    value["logprobs"][0] += 1.0
    for damaged in ("{", json.dumps(value)):
        kept.write_text(damaged, encoding="utf-8")
        mended, computed_anew = losses()
        assert computed_anew, "a damaged file is not believed"
        assert mended == first
    other = write_jsonl(tmp_path / "pairs.jsonl", [pair(number + 1) for number in range(40)])
    assert other == pairs
    losses()
    assert len(list((home / "cache" / "references").iterdir())) == 2, "other rows have figures of their own"


@pytest.mark.usefixtures("evaluated_here")
def test_the_whole_job_ends_in_a_version_that_is_judged_on_held_out_pairs(
    pairs: Path, run_options: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = run_options(data=str(pairs), epochs=6, held_out=12, name="taste")
    result = run(config, home=tmp_path / "home", recorder=Listener())
    assert result["version"] == "taste@1"
    evaluation = result["evaluation"]
    assert evaluation["metric"] == "preference_accuracy"
    assert evaluation["rows"] == 12
    assert evaluation["arms"]["tuned"]["score"] == 100.0
    low, high = evaluation["arms"]["tuned"]["interval"]
    assert 50.0 < low < high == 100.0
    told = evaluation["preferences"]
    assert told["pairs"] == sum(one["pairs"] for one in told["slices"].values()) == 12
    assert told["calibration"].keys() == {"tuned"}, "the base's log-probabilities are no odds"
    assert result["verdict"]["decision"] in ("ship", "not_enough_evidence")
    folder = Path(result["run_dir"])
    held_out = read_jsonl(folder / "held_out.jsonl")
    assert {"prompt", "chosen", "rejected"} == held_out[0].keys()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["format"] == "preference"
    assert "Preference accuracy" in (folder / "report.md").read_text(encoding="utf-8")
    home = tmp_path / "home"
    again = prove(ProofConfig(version="taste"), home=home, recorder=Listener())
    assert {one.name for one in again.proof if not one.holds} <= {"the model ends its answers"}
    assert len(make_prompts(load_answerer("taste", home=home, note=print)).references) > 2
    stands = resolve_version(home, "taste")
    figure = evaluation_against(stands, stands, home=home, recorder=Listener(), options={})
    assert not figure.holds
    assert "hone rank taste@1 --against taste@1" in figure.details[0]
    told = diff_versions("taste@1", "taste@1", home=home)
    assert told["answers"]["comparison"] is None
    assert "taste@1 by preference accuracy" in told["answers"]["why_not"]
    assert told["scores"]["taste@1"]["score"] == 100.0


@pytest.mark.usefixtures("evaluated_here")
def test_a_reward_model_loads_in_transformers_and_peft_and_scores_alike(
    pairs: Path, run_options: Callable[..., RunConfig], tiny_base: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    config = run_options(data=str(pairs), method="reward", epochs=6, held_out=12, name="judge")
    result = run(config, home=home, recorder=Listener())
    assert result["evaluation"]["arms"]["tuned"]["score"] == 100.0
    assert result["evaluation"]["preferences"]["calibration"]["tuned"]["expected_calibration_error"] < 0.5

    answerer = load_answerer("judge", home=home, device="cpu", dtype="float32", note=lambda _text: None)
    renderer = AnswerRenderer(answerer.renderer)
    examples = load_examples(str(pairs), preferences=True).examples[:4]
    sequences = [sequence for example in examples for sequence in renderer.render(example).sequences]
    ours = answer_scores(answerer, sequences)
    assert all(better > worse for better, worse in zip(ours[::2], ours[1::2], strict=True))

    base = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, Path(result["run_dir"]) / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for sequence, score in zip(sequences, ours, strict=True):
        with torch.no_grad():
            found = theirs(torch.tensor([sequence.ids])).logits[0, 0].item()
        assert found == pytest.approx(score, abs=1e-4), tokenizer.decode(sequence.ids)

    with pytest.raises(ConfigError, match="is a reward model"):
        open_conversation(ChatConfig(model="judge", device="cpu"), home=home, note=lambda _text: None)
    assert answerer.adaptation is not None
    with pytest.raises(ModelError, match="reward model"):
        merge_and_save(answerer.adaptation, answerer.base.tokenizer, tmp_path / "merged")

    scored = score_answers(
        RewardConfig(version="judge", data=str(pairs), limit=4, device="cpu", dtype="float32"),
        home=home, recorder=Listener(),
    )  # fmt: skip
    assert [one["score"] for one in scored.rows] == pytest.approx(ours, abs=1e-5)
    assert [(one["line"], one["answer"]) for one in scored.rows[:3]] == [(1, 0), (1, 1), (2, 0)]
    heard = Listener()
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [pair(0), {"prompt": "a", "chosen": "same", "rejected": "same"}])
    score_answers(RewardConfig(version="judge", data=str(mixed), device="cpu"), home=home, recorder=heard)
    assert any("1 of 2 rows" in one.data["text"] and "equal_sides 1" in one.data["text"] for one in heard.of("note"))


@pytest.mark.usefixtures("evaluated_here")
def test_what_is_no_reward_model_gives_no_scores(
    pairs: Path, run_options: Callable[..., RunConfig], tmp_path: Path
) -> None:
    result = run(run_options(data=str(pairs), max_steps=1, held_out=8), home=tmp_path / "home", recorder=Listener())
    asked = RewardConfig(version=result["version"], data=str(pairs), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="is no reward model"):
        score_answers(asked, home=tmp_path / "home", recorder=Listener())


@pytest.mark.usefixtures("evaluated_here")
def test_rankings_of_differing_lengths_are_trained_on_and_judged(
    run_options: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The held-out rows are written in one shape: a file that mixes pairs and rankings could not be read again."""
    rows = []
    for number in range(24):
        asked = pair(number)
        answers = [asked["chosen"], asked["rejected"], *["the lamp is lit"] * (number % 2)]
        rows.append({"prompt": asked["prompt"], "answers": answers, "ranks": list(range(1, len(answers) + 1))})
    config = run_options(data=str(write_jsonl(tmp_path / "ranked.jsonl", rows)), max_steps=2, held_out=8, name="ranked")
    result = run(config, home=tmp_path / "home", recorder=Listener())
    assert result["evaluation"]["preferences"]["pairs"] > 8
    held_out = read_jsonl(Path(result["run_dir"]) / "held_out.jsonl")
    assert {len(one["answers"]) for one in held_out} == {2, 3}, "both kinds are held out"


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([row(number) for number in range(12)], {"beta": 0.5}, "--beta 0.5 has no effect with --method sft"),
        ([row(number) for number in range(12)], {"group_size": 4}, "--group-size 4 has no effect with --method sft"),
        ([pair(number) for number in range(12)], {"target_margin": 1.0}, "--target-margin 1.0 has no effect"),
    ],
)
def test_options_that_the_method_of_the_rows_does_not_have_are_refused(
    rows: list[Any], options: JsonDict, said: str, train_options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """No method is given, so it follows from the rows."""
    path = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    with pytest.raises(ConfigError, match="no effect with it") as caught:
        choose_method(train_options(data=path, **options), load_examples(path, preferences="chosen" in rows[0]))
    assert said in caught.value.render()
