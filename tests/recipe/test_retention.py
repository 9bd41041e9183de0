"""Retention as a part of a run: planted forgetting is caught, an untouched adapter loses nothing, strength is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hone.config import EvaluateConfig, RunConfig, load_config
from hone.data.loader import load_examples
from hone.engine.parallel import ALONE
from hone.errors import DataError, InterruptedRunError
from hone.evaluation.probe_scores import render_item, score_items
from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.probes.question_files import question_to_json
from hone.model.forward import padded_logits, padded_logprobs
from hone.model.lora import adapted_layers
from hone.recipe.evaluate import evaluate
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.question_sets import question_sets
from hone.recipe.retention import measure_retention
from hone.recipe.rows import render_rows
from hone.recipe.run import run
from hone.recipe.strength import material_for_sweep, set_kept_strength
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, write_jsonl
from tests.tiny import row_logits

RunOptions = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def known(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that the random base answers rightly, since what it answers is said to be right."""
    base = load_answerer(str(tiny_base), home=tmp_path_factory.mktemp("home"), dtype="float32", note=lambda text: None)
    asked = [
        ProbeItem("known", (f"what of the {thing} {number}?",), ("it is lit", "it is not", "on the way", "no order"), 0)
        for thing in ("lamp", "order", "bell")
        for number in range(20)
    ]
    rendered = [render_item(item, base.renderer, list) for item in asked]
    for right in range(4):
        tried = [ProbeItem(item.skill, item.prompts, item.answers, right) for item in asked]
        again = [type(one)(item, one.sequences, one.weights) for item, one in zip(tried, rendered, strict=True)]
        answered = score_items(base.base.model, again, forward=padded_logprobs, logits=padded_logits)
        asked = [new if good else old for old, new, good in zip(asked, tried, answered, strict=True)]
    path = tmp_path_factory.mktemp("questions") / "known.jsonl"
    write_jsonl(path, [question_to_json(item) for item in asked])
    return path


def measured(answerer: Answerer, home: Path, known: Path, **changes: Any) -> JsonDict:
    files = changes.pop("files", [str(known)])
    questions = question_sets(EvaluateConfig.model_validate({"version": "any", "probes": 1, "retention": files}))
    given: dict[str, Any] = {
        "keep": "balanced", "questions": questions, "domain_answers": ["the lamp is lit"] * 9,
        "home": home, "recorder": Listener(), **changes,
    }  # fmt: skip
    return measure_retention(answerer, **given).to_json()


def loaded(finished: Finished) -> Answerer:
    return load_answerer(str(finished.folder), home=finished.home, dtype="float32", note=lambda text: None)


def test_a_planted_forgetting_is_caught(finished: Finished, known: Path) -> None:
    """Twelve passes at a hundred times the usual rate: the adapter gives one answer to everything."""
    asked = EvaluateConfig.model_validate(
        {"version": str(finished.folder), "dtype": "float32", "device": "cpu", "max_new_tokens": 8, "probes": 1,
         "retention": str(known)}
    )  # fmt: skip
    found = evaluate(asked, home=finished.home, recorder=Listener())
    assert found.verdict is not None
    assert (found.verdict.decision, found.verdict.exit_code) == ("do_not_ship", 3)
    assert found.verdict.reason.startswith("It forgot what the base could do: ")
    assert "the questions of known.jsonl" in found.verdict.reason
    assert found.retention is not None
    (file,) = found.retention["files"]
    assert (file["name"], file["base"], file["could_be_lost"]) == ("known.jsonl", 100.0, 60)
    assert file["tuned"] < 80
    assert found.retention["own_answers"]["kl_nats"] > 0.5
    assert found.retention["kept"] is False
    assert "retention" not in {one["what"] for one in found.verdict.not_measured}
    off = evaluate(asked.model_copy(update={"keep": "off"}), home=finished.home, recorder=Listener())
    assert off.verdict is not None
    assert not off.verdict.reason.startswith("It forgot")
    assert off.retention is not None
    assert off.retention["files"] == found.retention["files"], "the same measurement, not judged"


def test_an_untouched_adapter_loses_nothing(finished: Finished, known: Path) -> None:
    answerer = loaded(finished)
    with torch.no_grad():
        for _, layer in adapted_layers(answerer.base.model):
            layer.lora_B.zero_()
    found = measured(answerer, finished.home, known, keep="strict")
    assert found["kept"] is True
    assert found["losses"] == []
    assert found["own_answers"]["kl_nats"] == pytest.approx(0.0, abs=1e-6)
    assert found["general_text"]["difference"] == pytest.approx(0.0, abs=1e-6)
    (file,) = found["files"]
    assert (file["base"], file["tuned"], file["lost"], file["gained"]) == (100.0, 100.0, 0, 0)
    assert all((skill["lost"], skill["gained"]) == (0, 0) for skill in found["probes"]["skills"])
    assert found["brittleness"]["turned"] == 0


def test_what_the_base_does_is_measured_once(finished: Finished, known: Path, tmp_path: Path) -> None:
    answerer = loaded(finished)
    first, again = Listener(), Listener()
    found = measured(answerer, tmp_path, known, recorder=first)
    assert measured(answerer, tmp_path, known, recorder=again) == found

    def tasks(heard: Listener) -> set[str]:
        return {str(event.data["task"]) for event in heard.of("progress")}

    assert {"base: general prompts", "base: probes", "base: general text"} <= tasks(first)
    assert not {task for task in tasks(again) if task.startswith("base: ")}


def test_too_few_reference_answers_are_said(finished: Finished, known: Path) -> None:
    found = measured(loaded(finished), finished.home, known, domain_answers=["one"])
    assert found["brittleness"] is None
    assert found["not_measured"][0]["what"] == "brittleness"


def test_questions_that_do_not_fit_are_left_out_and_said(finished: Finished, known: Path, tmp_path: Path) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", [
        {"question": "what? " * 400, "choices": ["a", "b"], "right": 0},
        {"question": "what?", "choices": ["a lamp", "b"], "right": 0},
    ])  # fmt: skip
    found = measured(loaded(finished), finished.home, known, files=[str(long)])
    assert found["files"][0]["questions"] == 1
    assert any(one["what"] == "1 of 2 questions of long.jsonl" for one in found["not_measured"])


def test_a_file_of_something_else_is_refused(finished: Finished, known: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="1 row is no question"):
        measured(loaded(finished), finished.home, known, files=[str(rows)])


# --- strength ---


@pytest.fixture
def strict(run_options: RunOptions, hone_home: Path, evaluated_here: None) -> JsonDict:
    """A run whose full strength is too much."""
    config = run_options(keep="strict", probes=1, epochs=6, learning_rate=1e-2, validation=6)
    return run(config, home=hone_home, recorder=Listener())


def test_the_strength_is_swept_chosen_stored_and_loaded(strict: JsonDict, tiny_base: Path, hone_home: Path) -> None:
    folder = Path(strict["run_dir"])
    strength = strict["retention"]["strength"]
    strengths = [point["strength"] for point in strength["points"]]
    assert {0.0, 0.25, 0.5, 0.75, 1.0, 1.25} <= set(strengths)
    assert strengths == sorted(strengths)
    assert len(strengths) <= 8
    kl = [point["kl_nats"] for point in strength["points"]]
    assert kl[0] == 0.0
    assert kl == sorted(kl), "the further, the stronger"
    assert all(math.isfinite(point["validation_loss"]) for point in strength["points"])
    assert strength["value"] == strict["training"]["strength"] < 1.0
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["lora_alpha"] == pytest.approx(strict["training"]["alpha"] * strength["value"])
    reload = next(one for one in strict["proof"] if one["number"] == 10)
    assert reload["holds"], reload

    answerer = load_answerer(str(folder), home=hone_home, dtype="float32", note=lambda text: None)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    theirs: Any = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    ids = list(range(5, 40))
    torch.testing.assert_close(row_logits(theirs, ids), row_logits(answerer.base.model, ids), atol=1e-4, rtol=1e-4)


def test_the_stored_frontier_is_the_adapters_own(strict: JsonDict, hone_home: Path) -> None:
    """At the strength that was saved, the loaded adapter has the validation loss that its frontier says."""
    folder = Path(strict["run_dir"])
    answerer = load_answerer(str(folder), home=hone_home, dtype="float32", note=lambda text: None)
    strength = strict["retention"]["strength"]
    point = next(one for one in strength["points"] if one["strength"] == strength["value"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rows = load_examples(load_config(RunConfig, {}, file=folder / "config.yaml").data)
    examples, sequences = render_rows(rows.examples, answerer.renderer, rows.ledger)
    numbers = {one["row"] for one in manifest["validation"]}
    assert len(numbers) == 6
    nats, tokens = 0.0, 0
    for example in examples:
        if example.row in numbers:
            (sequence,) = sequences[example.row]
            logs = torch.log_softmax(row_logits(answerer.base.model, sequence.ids).double(), dim=-1)
            places = [place for place, flag in enumerate(sequence.supervised) if flag]
            nats -= sum(float(logs[place - 1, sequence.ids[place]]) for place in places)
            tokens += len(places)
    assert point["validation_loss"] == pytest.approx(nats / tokens, rel=1e-3)


def test_off_saves_what_was_trained(run_options: RunOptions, hone_home: Path, evaluated_here: None) -> None:
    result = run(run_options(keep="off", probes=1), home=hone_home, recorder=Listener())
    assert result["training"]["strength"] == 1.0
    assert result["retention"]["strength"]["points"] == []
    assert "off" in result["retention"]["strength"]["reason"]
    assert result["retention"]["kept"] is None


def test_without_probes_nothing_is_measured(run_options: RunOptions, hone_home: Path, evaluated_here: None) -> None:
    result = run(run_options(probes=0), home=hone_home, recorder=Listener())
    assert result["retention"] is None
    assert "retention" in {one["what"] for one in result["verdict"]["not_measured"]}
    assert result["training"]["strength"] == 1.0


def test_an_adaptation_without_strength_says_so(run_options: RunOptions, hone_home: Path, evaluated_here: None) -> None:
    config = run_options(adaptation="full", rank=None, probes=1, learning_rate=1e-4)
    result = run(config, home=hone_home, recorder=Listener())
    assert result["retention"]["strength"]["value"] == 1.0
    assert "has no strength to set" in result["retention"]["strength"]["reason"]


def test_a_stop_while_sweeping_leaves_the_full_strength(finished: Finished) -> None:
    answerer = loaded(finished)
    assert answerer.adaptation is not None
    material = material_for_sweep(
        "balanced", answerer.adaptation, answerer.base, answerer.renderer, questions=[], home=finished.home,
        parallel=ALONE, sharded=False, recorder=Listener(),
    )  # fmt: skip
    with pytest.raises(InterruptedRunError):
        set_kept_strength(
            "balanced", answerer.adaptation, material, [], forward=padded_logprobs, recorder=Listener(),
            should_stop=lambda: True, parallel=ALONE,
        )  # fmt: skip
    assert {layer.strength for _, layer in adapted_layers(answerer.base.model)} == {1.0}
