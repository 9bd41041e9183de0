"""A reward model among versions: what it is exported as, who may ask it for answers, and how two of them compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from hone.cli.summary import print_run
from hone.config import ChatConfig, GenerateConfig, RunConfig
from hone.data.answers import AnswerRenderer
from hone.data.loader import load_examples
from hone.errors import ConfigError, ModelError, PromotionError, ProofError
from hone.recipe import export_scores
from hone.recipe.answer import open_conversation
from hone.recipe.export import export_version
from hone.recipe.inference import load_answerer
from hone.recipe.promote import promote
from hone.recipe.reward import answer_scores
from hone.recipe.run import run
from hone.recipe.version_base import on_version
from hone.recipe.versions_diff import diff_versions
from hone.registry import find_alias, resolve_version
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, evaluate_in_this_process, read_jsonl, row, write_jsonl

ON_THE_CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def judged(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A home with judge@1, which learned what is preferred, and judge@2, which learned the opposite."""
    folder = tmp_path_factory.mktemp("judged")
    pairs: list[Any] = []
    for number in range(40):
        asked = row(number)
        pairs.append({"prompt": asked["prompt"], "chosen": asked["completion"], "rejected": "nobody can tell you"})
    turned = [{**one, "chosen": one["rejected"], "rejected": one["chosen"]} for one in pairs]
    held_out = write_jsonl(folder / "held_out.jsonl", pairs[28:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)
        for name, rows in (("right", pairs[:28]), ("turned", turned[:28])):
            config = RunConfig.model_validate(
                {
                    "data": str(write_jsonl(folder / f"{name}.jsonl", rows)), "model": str(tiny_base), "rank": 4,
                    "eval": str(held_out), "method": "reward", "name": "judge", "epochs": 6, "learning_rate": 5e-3,
                    "max_new_tokens": 8, "probes": 0, "general_rows": 0, "early_stop": False, **ON_THE_CPU,
                }
            )  # fmt: skip
            result = run(config, home=folder / "home", recorder=Listener())
            if name == "right":
                first = result
    return Finished(folder / "home", config, first, Listener())


@pytest.fixture
def home(judged: Finished, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(judged.home, tmp_path / "copied-home"))


def exported(home: Path, out: Path, **given: Any) -> Any:
    return export_version("judge@1", **{"target": "peft", "out": out, "home": home, "recorder": Listener(), **given})


@pytest.mark.parametrize("target", ["merged", "gguf", "ollama", "vllm"])
def test_formats_without_a_place_for_the_head_are_refused_before_anything_is_loaded(
    target: str, judged: Finished, tmp_path: Path
) -> None:
    heard = Listener()
    with pytest.raises(ModelError, match=r"judge@1 is a reward model, and \w+ has no place") as caught:
        exported(judged.home, tmp_path / "out", target=target, accept_unproven=True, recorder=heard)
    assert "--to peft" in str(caught.value.remedy)
    assert caught.value.why
    assert not heard.of("stage")
    assert not (tmp_path / "out").exists()


def test_it_is_no_base_to_train_on(judged: Finished, run_options: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a reward model"):
        on_version(run_options(model="judge@1"), home=judged.home, recorder=Listener())


def test_the_peft_export_is_held_against_scores_of_given_answers(judged: Finished, tmp_path: Path) -> None:
    heard = Listener()
    result = exported(judged.home, tmp_path / "out", recorder=heard)
    assert result.status == "proven"
    assert result.checks == ()
    assert result.scores.answers == 6 + 2 * 8, "conversations of the probe, and both answers of held-out rows"
    stored = json.loads((result.folder / "export.json").read_text(encoding="utf-8"))
    [check] = stored["checks"]
    assert check["invariant"]["holds"]
    assert check["score_difference"] <= 1e-4
    assert "gives 22 answers the scores that hone gives" in heard.notes()
    scores = [one["score"] for one in stored["answers"] if one["prompt"].startswith("held-out")]
    assert all(better > worse for better, worse in zip(scores[::2], scores[1::2], strict=True))


def test_the_lines_of_the_card_give_the_scores(judged: Finished, tmp_path: Path) -> None:
    """Many bases, SmolLM2 among them, pad with the token that ends a turn."""
    folder = exported(judged.home, tmp_path / "out").folder
    card = ModelCard.load(folder / "README.md")
    code = card.text.partition("```python\n")[2].partition("```")[0]
    answerer = load_answerer("judge@1", home=judged.home, **ON_THE_CPU, note=lambda _text: None)
    [sequence, _] = AnswerRenderer(answerer.renderer).render(
        load_examples(str(judged.folder / "held_out.jsonl"), preferences=True).examples[0]
    ).sequences  # fmt: skip
    lines = [line.partition("#")[0].strip() for line in code.splitlines()]
    assert "base.config.pad_token_id = None" in lines
    place = next(line for line in lines if line.startswith("base = "))
    base = AutoModelForSequenceClassification.from_pretrained(place.split('"')[1], num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = sequence.ids[-1]
    judge: Any = PeftModel.from_pretrained(base, folder).eval()

    def score() -> float:
        with torch.no_grad():
            return float(judge(torch.tensor([sequence.ids])).logits[0, 0])

    [ours] = answer_scores(answerer, [sequence])
    assert abs(score() - ours) > 1e-4, "the end of the turn would be passed over"
    base.config.pad_token_id = None
    assert score() == pytest.approx(ours, abs=1e-4)


def test_the_cards_name_the_task_and_what_loads_it(judged: Finished, tmp_path: Path) -> None:
    for place in (judged.folder / "adapter", exported(judged.home, tmp_path / "out").folder):
        card = ModelCard.load(place / "README.md")
        data: Any = card.data
        assert data.pipeline_tag == "text-classification"
        assert {one.task_type for one in data.eval_results} == {"text-classification"}
        assert "AutoModelForSequenceClassification" in card.text
        assert "num_labels=1" in card.text
        assert "AutoModelForCausalLM" not in card.text
        assert "hone reward score judge@1 FILE" in card.text


def test_an_older_card_is_put_right_in_the_export(home: Path, tmp_path: Path) -> None:
    path = resolve_version(home, "judge@1").adapter / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("text-classification", "text-generation"), encoding="utf-8")
    data: Any = ModelCard.load(exported(home, tmp_path / "out").folder / "README.md").data
    assert data.pipeline_tag == "text-classification"
    assert {one.task_type for one in data.eval_results} == {"text-classification"}


def test_other_scores_are_refused(judged: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = export_scores.with_peft

    def without_head(folder: Path, model: Any) -> Any:
        loaded: Any = right(folder, model)
        loaded.base_model.model.score.weight.data.mul_(1.01)
        loaded.base_model.model.score.modules_to_save["default"].weight.data.mul_(1.01)
        return loaded

    monkeypatch.setattr(export_scores, "with_peft", without_head)
    with pytest.raises(ProofError, match="nothing was written") as caught:
        exported(judged.home, tmp_path / "out")
    assert "has the score" in caught.value.details[0]
    assert not (tmp_path / "out").exists()
    assert exported(judged.home, tmp_path / "out", accept_unproven=True).status == "unproven"


def test_a_base_without_sequence_classification_is_told_as_not_compared(
    judged: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: Any, **_more: Any) -> Any:
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", refused)
    result = exported(judged.home, tmp_path / "out")
    assert (result.status, result.scores) == ("unproven", None)
    assert "Unrecognized configuration class" in result.not_checked[0][1]


def test_it_does_not_chat_beside_its_base(judged: Finished) -> None:
    with pytest.raises(ConfigError, match="judge@2 is a reward model: it scores answers, and writes none"):
        open_conversation(ChatConfig(model="judge", base=True, device="cpu"), home=judged.home, note=lambda _text: None)
    alone = GenerateConfig(model="judge", prompt="hi", base=True, device="cpu", max_new_tokens=2)
    conversation = open_conversation(alone, home=judged.home, note=lambda _text: None)
    assert len(list(conversation.ask("hi", arm="base"))) <= 2, "its base answers"


def test_the_run_ends_with_the_command_that_asks_it(judged: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    print_run(judged.result)
    printed = capsys.readouterr().out
    assert "hone reward score judge@1 FILE" in printed
    assert "hone chat" not in printed


def test_two_of_them_are_compared_on_the_held_out_pairs_of_the_one_that_stands(home: Path) -> None:
    promote("judge@1", "live", home=home, recorder=Listener())
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("judge@2", "live", home=home, recorder=Listener(), options=ON_THE_CPU)
    told = "\n".join(caught.value.details)
    assert "worse than judge@1 on 12 pairs of its held-out rows: Preference accuracy 0.00 against 100.00" in told
    assert "hone rank" not in told
    promote("judge@2", "live", home=home, recorder=Listener(), force=True, reason="to see it come back")
    back = promote("judge@1", "live", home=home, recorder=Listener(), options=ON_THE_CPU)
    figure = back["figures"][1]
    assert (figure["holds"], figure["numbers"]["difference"]) == (True, 100.0)
    assert (figure["numbers"]["arm"], figure["numbers"]["against"]) == ("judge@1", "judge@2")
    standing = find_alias(home, "judge@live")
    assert standing is not None
    assert standing.reference == "judge@1"


def test_pairs_that_one_was_trained_on_are_left_out(home: Path, judged: Finished) -> None:
    promote("judge@1", "live", home=home, recorder=Listener())
    path = resolve_version(home, "judge@1").run_folder / "held_out.jsonl"
    trained_on = read_jsonl(Path(judged.config.data).with_name("right.jsonl"))[:3]
    write_jsonl(path, [*read_jsonl(path), *trained_on])
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("judge@2", "live", home=home, recorder=Listener(), options=ON_THE_CPU)
    told = "\n".join(caught.value.details)
    assert "on 12 pairs of its held-out rows" in told
    assert "3 rows left out, because it was trained on them" in told


@pytest.mark.parametrize("pair", [("judge@1", "judge@2"), ("judge@2", "judge@1")])
def test_the_difference_of_two_is_told_without_their_answers(pair: tuple[str, str], judged: Finished) -> None:
    found: JsonDict = diff_versions(*pair, home=judged.home)
    assert found["answers"]["comparison"] is None
    assert "judge@1 by preference accuracy" in found["answers"]["why_not"]
    assert found["scores"]["judge@1"]["score"] == 100.0
    assert found["data"]["rows"]["same"] == 12
    assert "data" in found["config"]
