"""The whole job, end to end on a tiny model: its result, its folder, its version, and what it refuses."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hone.config import EvaluateConfig, RunConfig, load_config
from hone.errors import ConfigError, DataError, InterruptedRunError, ModelError, TrainingError
from hone.files import sha256_file
from hone.model.adapter_files import save_adapter
from hone.model.lora import adapted_layers
from hone.recipe.evaluate import evaluate
from hone.recipe.run import RESULT_SCHEMA, open_interrupted_run, run
from hone.recipe.run_files import held_out_file
from hone.registry import RunFolder, list_versions, resolve_version, verify_version
from hone.types import JsonDict
from tests.documented_result import DOCUMENTED, missing
from tests.recipe.conftest import Finished, Listener, evaluate_in_this_process, read_jsonl, row, write_jsonl

RunOptions = Callable[..., RunConfig]


def done(config: RunConfig, home: Path, heard: Listener | None = None) -> JsonDict:
    heard = heard or Listener()
    return run(config, home=home, recorder=heard, should_stop=heard.should_stop)


def broken_off(config: RunConfig, home: Path, after: int) -> RunFolder:
    """A run that was interrupted after some steps; ``output`` says where."""
    assert config.output is not None
    with pytest.raises(InterruptedRunError):
        done(config, home, Listener(stop_after=after))
    return RunFolder.open(config.output)


def gone_on(folder: RunFolder, home: Path) -> tuple[JsonDict, Listener]:
    again, config = open_interrupted_run(folder.path, home=home)
    assert isinstance(config, RunConfig)
    heard = Listener()
    return run(config, home=home, recorder=heard, resume=again), heard


# --- the result ---


def test_the_result_has_every_documented_key(finished: Finished) -> None:
    assert missing(finished.result, DOCUMENTED) == []
    assert finished.result["schema"] == RESULT_SCHEMA == 1
    text = json.dumps(finished.result, allow_nan=False, ensure_ascii=False)
    assert json.loads(text) == finished.result, "it goes through JSON as it is"


def test_a_missing_key_would_be_seen() -> None:
    assert missing({"proof": []}, {"schema": int, "proof": [int]}) == [".schema", ".proof: empty"]
    assert missing({"base": {"name": 3}}, {"base": {"name": str}}) == [".base.name: 3"]


def test_every_row_is_accounted_for(finished: Finished) -> None:
    data = finished.result["data"]
    assert (data["rows"], data["dropped"]) == (43, 3)
    assert data["rows"] == data["kept"] + data["cut"] + data["dropped"]
    assert data["kept"] + data["cut"] == data["train"] + data["validation"] + data["held_out"]
    assert sum(data["codes"].values()) == data["dropped"]
    dropped = [one for one in read_jsonl(finished.folder / "ledger.jsonl") if one["status"] == "dropped"]
    assert [one["line"] for one in dropped] == [41, 42, 43]
    assert all(one["reason"] and one["code"] for one in dropped)


def test_no_row_is_both_trained_on_and_held_out(finished: Finished) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text(encoding="utf-8"))
    parts = {name: {one["row"] for one in manifest[name]} for name in ("train", "validation", "held_out")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 40
    held_out = read_jsonl(held_out_file(RunFolder.open(finished.folder)))
    source = read_jsonl_rows(Path(finished.config.data))
    expected = {source[number - 1]["prompt"] for number in parts["held_out"]}
    assert {one["messages"][0]["content"] for one in held_out} == expected


def read_jsonl_rows(path: Path) -> list[JsonDict]:
    """The first 40 lines, which are rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:40]]


def test_the_folder_holds_what_the_design_names(finished: Finished) -> None:
    files = (
        "config.yaml", "metrics.jsonl", "ledger.jsonl", "proof.json", "evaluation.json", "report.html", "report.md",
        "log.txt", "manifest.json", "held_out.jsonl", "result.json", "run.json", "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors", "adapter/hone.json",
    )  # fmt: skip
    assert [name for name in files if not (finished.folder / name).stat().st_size] == []
    assert any((finished.folder / "checkpoints").iterdir())
    assert not [path for path in finished.folder.rglob("*") if path.name.endswith(".tmp")]
    stored = {
        name: json.loads((finished.folder / name).read_text(encoding="utf-8"))
        for name in files
        if name.endswith(".json")
    }
    assert stored["result.json"] == finished.result
    assert stored["proof.json"] == finished.result["proof"]
    assert stored["evaluation.json"] == {**finished.result["evaluation"], "verdict": finished.result["verdict"]}
    assert stored["run.json"]["status"] == "done"
    assert Path(finished.result["report"]) == finished.folder / "report.html"


def test_all_invariants_hold_and_it_is_better_than_its_base(finished: Finished) -> None:
    """A task that a tiny model learns: the whole path works, or this fails."""
    proof = {one["number"]: one["holds"] for one in finished.result["proof"]}
    assert proof == dict.fromkeys(range(1, 13), True)
    assert finished.result["status"] == "proven"
    arms = finished.result["evaluation"]["arms"]
    assert arms["tuned"]["score"] > arms["base"]["score"] + 50
    assert finished.result["verdict"]["decision"] == "ship"
    difference = finished.result["evaluation"]["differences"][0]
    assert (difference["arm"], difference["against"]) == ("tuned", "base")
    assert difference["difference"] == pytest.approx(arms["tuned"]["score"] - arms["base"]["score"], abs=1e-4)
    assert difference["interval"][0] > 0


def test_its_version_is_registered_and_resolves(finished: Finished) -> None:
    assert finished.result["version"] == "questions@1"
    for reference in ("questions", "questions@1", str(finished.folder)):
        version = resolve_version(finished.home, reference)
        assert (version.reference, version.status) == ("questions@1", "proven")
    verify_version(version)
    assert version.run_folder == finished.folder
    assert version.base_hash == finished.result["base"]["hash"]
    assert version.proof == finished.result["proof"]
    assert version.evaluation == finished.result["evaluation"]
    manifest = json.loads((finished.folder / "manifest.json").read_text(encoding="utf-8"))
    assert version.data_manifest == manifest
    assert manifest["source"]["sha256"] == sha256_file(finished.config.data)


def test_what_is_needed_to_repeat_it_is_stored(finished: Finished) -> None:
    stored = load_config(RunConfig, {}, file=finished.folder / "config.yaml")
    assert (stored.seed, stored.learning_rate, stored.rank) == (0, 1e-2, 16)
    code = finished.result["code"]
    assert {"torch", "transformers"} <= code["libraries"].keys()
    assert code["git"]


def test_stages_are_told_in_order(finished: Finished) -> None:
    stages = [event.data["name"] for event in finished.heard.of("stage")]
    assert stages == ["run", "model", "data", "proof", "layers", "training", "evaluation"]


def test_a_fresh_process_gives_the_answers_of_this_one(finished: Finished) -> None:
    """The same rows through ``python -m hone evaluate`` and through the recipe: word for word, figure for figure."""
    rows = str(held_out_file(RunFolder.open(finished.folder)))
    options = {"seed": 0, "device": "cpu", "dtype": "float32", "probes": 0}
    asked = EvaluateConfig(version="questions@1", data=rows, cache=False, **options)
    here = evaluate(asked, home=finished.home, recorder=Listener())
    command = [sys.executable, "-m", "hone", "evaluate", str(finished.folder), rows, "--no-cache", "--json"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    ended = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8")
    fresh = json.loads(ended.stdout)
    assert fresh["answers"] == here.answers
    assert len(here.answers) == 8
    assert here.answers[0]["answers"]["tuned"] != here.answers[0]["answers"]["base"]
    stored = copy.deepcopy(finished.result["evaluation"])
    for found in (fresh["evaluation"], here.evaluation, stored):
        for arm in found["arms"].values():
            arm["seconds"] = arm["per_1000_answers"]["seconds"] = None
    assert fresh["evaluation"] == here.evaluation == stored
    assert fresh["proof"] == [invariant.to_json() for invariant in here.proof]


# --- held-out rows from a file ---


def test_held_out_rows_that_stand_among_the_training_rows_are_not_trained_on(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    rows = [row(number) for number in range(30)]
    data = write_jsonl(tmp_path / "mine.jsonl", [*rows, rows[7]])
    held_out = write_jsonl(tmp_path / "eval.jsonl", [rows[2], rows[7], row(33), row(34), "no json"])
    result = done(run_options(data=str(data), eval=str(held_out), max_steps=3, name="mine"), hone_home)
    counts = result["data"]
    assert (counts["rows"], counts["kept"], counts["cut"], counts["dropped"]) == (31, 28, 0, 3)
    assert counts["codes"] == {"held_out_copy": 3}
    assert counts["held_out"] == result["evaluation"]["rows"] == 4
    assert (counts["held_out_file"]["rows"], counts["held_out_file"]["dropped"]) == (5, 1)
    assert not {"/", "\\"} & set(counts["source"] + counts["held_out_file"]["source"]), "both are names without folders"
    folder = Path(result["run_dir"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    used = {one["row"] for part in ("train", "validation") for one in manifest[part]}
    assert used == set(range(1, 31)) - {3, 8}
    copies = {one["row"]: one for one in read_jsonl(folder / "ledger.jsonl") if one["code"] == "held_out_copy"}
    assert sorted(copies) == [3, 8, 31]
    assert "eval.jsonl:1" in copies[3]["reason"]
    assert [one["status"] for one in read_jsonl(folder / "held_out_ledger.jsonl")].count("dropped") == 1
    assert next(one for one in result["proof"] if one["number"] == 8)["holds"]


def test_numbers_count_up_under_one_name(run_options: RunOptions, hone_home: Path, evaluated_here: None) -> None:
    versions = [done(run_options(name="desk", max_steps=1, seed=seed), hone_home)["version"] for seed in (0, 1)]
    assert versions == ["desk@1", "desk@2"]
    assert resolve_version(hone_home, "desk").number == 2


# --- proven or not ---


def test_a_model_that_does_not_end_its_answers_is_registered_as_unproven(
    run_options: RunOptions, hone_home: Path, evaluated_here: None
) -> None:
    result = done(run_options(max_steps=1), hone_home)
    proof = {one["number"]: one for one in result["proof"]}
    assert [number for number, one in proof.items() if not one["holds"]] == [12]
    assert proof[12]["measured"] < 0.9
    assert result["status"] == resolve_version(hone_home, "questions").status == "unproven"


def test_an_adapter_that_is_damaged_while_it_is_saved_is_registered_as_unproven(
    run_options: RunOptions, hone_home: Path, evaluated_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk is the base: the loss had fallen, and nothing but reloading it can tell."""

    def save_a_no_op(model: nn.Module, folder: Path, **given: Any) -> None:
        with torch.no_grad():
            for _, layer in adapted_layers(model):
                layer.lora_B.zero_()
        save_adapter(model, folder, **given)

    monkeypatch.setattr("hone.model.low_rank.save_adapter", save_a_no_op)
    result = done(run_options(learning_rate=1e-2, epochs=12, max_new_tokens=32), hone_home)
    proof = {one["number"]: one for one in result["proof"]}
    assert not proof[10]["holds"]
    assert proof[10]["measured"] > 1
    assert result["status"] == "unproven"
    answered = result["evaluation"]["arms"]
    assert answered["tuned"]["score"] == answered["base"]["score"]


def test_numbers_that_break_register_nothing(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    for number, given in enumerate(({"max_steps": 1}, {"max_steps": 2}, {"max_steps": 1, "validation": 4})):
        config = run_options(learning_rate=1e30, output=str(tmp_path / str(number)), **given)
        with pytest.raises(TrainingError):
            done(config, hone_home)
        assert RunFolder.open(tmp_path / str(number)).record()["status"] == "failed"
    assert list_versions(hone_home) == []


def test_a_validation_that_breaks_once_does_not_end_the_run(
    run_options: RunOptions, hone_home: Path, evaluated_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is no number, the later ones are: the best of those is kept, and the report is still written."""
    losses = iter([float("nan"), 2.5, 1.5])
    monkeypatch.setattr("hone.recipe.sft.mean_loss", lambda *_, **__: next(losses))
    result = done(run_options(validation=4, epochs=3), hone_home)
    training = result["training"]
    assert (training["steps"], training["validation_loss"], training["best_step"]) == (9, 1.5, 9)
    validations = [one for one in read_jsonl(Path(result["run_dir"]) / "metrics.jsonl") if one["event"] == "validation"]
    assert [one["best"] for one in validations] == [False, True, True]
    assert Path(result["report"]).is_file()


# --- the fresh process ---


def test_the_fresh_process_is_told_the_home_and_its_failure_registers_nothing(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], str]] = []

    def fail(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append((command, env["HONE_HOME"]))
        return subprocess.CompletedProcess(command, 1, b"")

    monkeypatch.setattr("hone.recipe.run.subprocess.run", fail)
    other_home = tmp_path / "other home"
    config = run_options(max_steps=1, seed=5, metric="chrf", output=str(tmp_path / "out"))
    with pytest.raises(TrainingError, match="ended with code 1"):
        done(config, other_home)
    [(command, home)] = asked
    assert home == str(other_home)
    assert command[:4] == [sys.executable, "-m", "hone", "evaluate"]
    assert command[4:6] == [str(tmp_path / "out"), str(tmp_path / "out" / "held_out.jsonl")]
    given = dict(zip(command[7::2], command[8::2], strict=True))
    assert given == {
        "--seed": "5", "--metric": "chrf", "--max-new-tokens": "8", "--device": "cpu", "--dtype": "float32",
        "--keep": "balanced", "--probes": "0",
    }  # fmt: skip
    assert list_versions(other_home) == []
    assert RunFolder.open(tmp_path / "out").record()["status"] == "failed"


@pytest.mark.parametrize("how", ["failed", "stopped"])
def test_after_a_comparison_that_did_not_end_it_goes_on_without_training_again(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"failed": 1, "stopped": InterruptedRunError.exit_code}[how]
    ended = subprocess.CompletedProcess[bytes]([], code, b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hone.recipe.run.subprocess.run", lambda command, **_: ended)
        with pytest.raises((TrainingError, InterruptedRunError)) as raised:
            done(run_options(max_steps=2, output=str(tmp_path / "out")), hone_home)
    assert "--resume" in str(raised.value.remedy)
    adapter = (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)
    result, heard = gone_on(RunFolder.open(tmp_path / "out"), hone_home)
    assert heard.of("step") == []
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").read_bytes() == adapter
    assert result["version"] == "questions@1"
    assert len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 3, "two steps and the last checkpoint, once each"


# --- interrupted and gone on with ---


def test_a_resumed_run_is_the_run_that_was_never_interrupted(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    whole = done(run_options(output=str(tmp_path / "whole")), hone_home)
    folder = broken_off(run_options(output=str(tmp_path / "broken")), hone_home, after=5)
    assert list_versions(hone_home, "questions")[-1].number == 1
    result, _ = gone_on(folder, hone_home)
    for name in (
        "adapter/adapter_model.safetensors",
        "metrics.jsonl",
        "held_out.jsonl",
        "manifest.json",
        "ledger.jsonl",
    ):
        assert (folder.path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert result["data"] == whole["data"]
    assert result["evaluation"]["arms"]["tuned"]["score"] == whole["evaluation"]["arms"]["tuned"]["score"]
    assert result["version"] == "questions@2"


def test_resuming_splits_as_before_where_a_held_out_row_is_the_longest(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    """A row held out must not come back into training because a number that was chosen is now given."""
    rows = [row(number) for number in range(24)]
    plain = write_jsonl(tmp_path / "plain.jsonl", rows)
    folder = broken_off(run_options(data=str(plain), output=str(tmp_path / "first")), hone_home, after=1)
    asked = read_jsonl(held_out_file(folder))[0]["messages"][0]["content"]
    longest = next(one for one in rows if one["prompt"] == asked)
    longest["completion"] = " ".join(["the lamp is lit"] * 12)
    data = write_jsonl(tmp_path / "long.jsonl", rows)
    folder = broken_off(run_options(data=str(data), output=str(tmp_path / "second")), hone_home, after=1)
    before = held_out_file(folder).read_bytes(), (folder.path / "manifest.json").read_bytes()
    assert longest["completion"].encode() in before[0]
    result, _ = gone_on(folder, hone_home)
    assert (held_out_file(folder).read_bytes(), (folder.path / "manifest.json").read_bytes()) == before
    assert result["data"]["dropped"] == 0


# --- what is refused before anything begins ---


def refused(config: RunConfig, home: Path) -> None:
    """No run was begun, and nothing is left."""
    assert list_versions(home) == []
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
def test_a_documents_folder_without_documents_is_refused(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "documents"
    if kind == "empty":
        place.mkdir()
    if kind == "a file":
        place.write_text("text", encoding="utf-8")
    config = run_options(documents=str(place))
    with pytest.raises(ConfigError, match="documents") as raised:
        done(config, hone_home)
    assert raised.value.where == "--documents"
    assert raised.value.exit_code == 2
    refused(config, hone_home)


def test_documents_are_named_with_their_hashes(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    (tmp_path / "documents" / "deep").mkdir(parents=True)
    for name in ("a.md", "deep/b.md"):
        (tmp_path / "documents" / name).write_text(f"facts of {name}", encoding="utf-8")
    result = done(run_options(documents=str(tmp_path / "documents"), max_steps=1), hone_home)
    documents = result["documents"]
    assert documents["files"] == {name: sha256_file(tmp_path / "documents" / name) for name in ("a.md", "deep/b.md")}
    assert documents["used"] is True
    asked = result["training"]["passages"]["rows"]
    said = f"passages stand in the prompts of {asked} training rows; read by the arms retrieval and tuned_retrieval"
    assert documents["reason"] == said


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"data": "no-such-file.jsonl"}, DataError),
        ({"eval": "no-such-file.jsonl"}, DataError),
        ({"model": "no-such-model"}, ModelError),
        ({"name": "Not A Name"}, ConfigError),
        ({"metric": "bleuu"}, ConfigError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_found_before_a_run_is_begun(
    run_options: RunOptions, hone_home: Path, given: dict[str, str], error: type[Exception]
) -> None:
    config = run_options(**given)
    with pytest.raises(error) as raised:
        done(config, hone_home)
    assert getattr(raised.value, "exit_code", None) == 2
    refused(config, hone_home)


def test_a_file_without_a_usable_row_is_refused_with_its_lines(
    run_options: RunOptions, hone_home: Path, tmp_path: Path
) -> None:
    data = write_jsonl(
        tmp_path / "bad.jsonl", [{"prompt": "a", "completion": ""}, "no json", {"prompt": "b", "completion": None}]
    )
    config = run_options(data=str(data))
    with pytest.raises(DataError) as raised:
        done(config, hone_home)
    text = raised.value.render()
    assert all(f"bad.jsonl:{line}" in text for line in (1, 2, 3))
    refused(config, hone_home)


def test_rows_that_the_template_refuses_one_and_all_leave_no_run(
    run_options: RunOptions, hone_home: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no row is left to train on"):
        done(run_options(max_length=8, output=str(tmp_path / "out")), hone_home)
    assert not (tmp_path / "out").exists()
    assert list_versions(hone_home) == []


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_rows_are_used_or_refused_and_never_half_done(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None, count: int
) -> None:
    data = write_jsonl(tmp_path / "few.jsonl", [row(number) for number in range(count)])
    with pytest.raises(DataError, match="at least 10 are needed"):
        done(run_options(data=str(data), max_steps=1), hone_home)
    config = run_options(data=str(data), max_steps=1, allow_few_rows=True)
    if count == 1:
        with pytest.raises(DataError):
            done(config, hone_home)
        assert list_versions(hone_home) == []
        return
    counts = done(config, hone_home)["data"]
    assert counts["train"] + counts["validation"] + counts["held_out"] == counts["kept"] == count
    assert counts["held_out"] >= 1


# --- the reference path ---


def test_a_run_on_the_reference_path_is_evaluated_on_it_and_learns_the_same(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    folders = {}
    for name, reference in (("packed", False), ("padded", True)):
        options = {"max_steps": 5, "reference_path": reference, "output": str(tmp_path / name)}
        result = done(run_options(**options), hone_home)
        assert [one["number"] for one in result["proof"] if not one["holds"]] in ([], [12])
        folders[name] = result
    packed, padded = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in folders)
    for name, tensor in packed.items():
        torch.testing.assert_close(padded[name], tensor, atol=2e-4, rtol=0)
    bits = [result["evaluation"]["arms"]["tuned"]["metrics"]["bits_per_byte"] for result in folders.values()]
    assert bits[0] == pytest.approx(bits[1], abs=1e-3)
    notes = json.loads((tmp_path / "padded" / "adapter" / "hone.json").read_text(encoding="utf-8"))
    assert notes["reference_path"] is True


# --- the audit ---


def test_a_run_begins_with_the_audit_and_keeps_its_report(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    rows = [*(row(number) for number in range(16)), {"prompt": "write to jane@mail.org", "completion": "..."}]
    data = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"prompt": "x", "completion": ""}])
    listener = Listener()
    result = run(run_options(data=str(data), max_steps=1), home=hone_home, recorder=listener)
    audit = json.loads((Path(result["run_dir"]) / "audit.json").read_text(encoding="utf-8"))
    assert (audit["rows"], audit["kept"], audit["dropped"]) == (18, 17, 1)
    assert audit["totals"] == {"empty_assistant": 1, "near_empty_answer": 1, "personal_data": 1}
    assert any("near_empty_answer 1, personal_data 1" in event.data["text"] for event in listener.of("note"))
