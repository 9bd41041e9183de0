"""``hone proof``: a version measured again, and rows checked before a run; and what a loader does with the probe."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hone.config import ProofConfig, RunConfig, TrainConfig
from hone.errors import ConfigError, ModelError, ProofError, StorageError
from hone.proof.probe import PROBE_NAMES
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.prove import ProofResult, prove
from hone.recipe.run import run, train
from hone.registry import RunFolder, register_version
from tests.proof.test_probe import OTHER as OTHER_TEMPLATE
from tests.recipe.conftest import Finished, Listener, row, write_jsonl
from tests.tiny import without_sums


def proven(home: Path, **given: Any) -> ProofResult:
    config = ProofConfig.model_validate({"device": "cpu", "dtype": "float32", **given})
    return prove(config, home=home, recorder=Listener())


def load(reference: str | Path, home: Path, notes: list[str] | None = None, **given: Any) -> Answerer:
    heard = [] if notes is None else notes
    return load_answerer(str(reference), home=home, device="cpu", dtype="float32", note=heard.append, **given)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The finished run's folder as a copy, whose files are not held against their sums: a test may change it."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "copied"))
    without_sums(folder / "adapter")
    return folder


def zero_adapter(folder: Path) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


# --- a version, measured again ---


@pytest.mark.parametrize("reference", ["questions", "folder"])
def test_all_but_two_are_measured_again(finished: Finished, reference: str) -> None:
    result = proven(finished.home, version=str(finished.folder) if reference == "folder" else reference)
    assert [invariant.number for invariant in result.proof] == list(range(1, 13))
    assert [invariant.number for invariant in result.proof if not invariant.holds] == []
    assert sorted(result.as_stored) == [6, 12]
    stored = {one["number"]: one for one in finished.result["proof"]}
    again = {invariant.number: invariant.to_json() for invariant in result.proof}
    assert again[6] == stored[6]
    assert again[12] == stored[12]
    for number in (1, 2, 8, 9):
        assert again[number] == stored[number], "the same rows and the same files"
    found = result.to_json()
    assert found["holds"] is True
    assert [one["number"] for one in found["proof"] if not one["measured_now"]] == [6, 12]


def test_what_was_changed_since_is_found(finished: Finished, copied: Path) -> None:
    zero_adapter(copied)
    result = proven(finished.home, version=str(copied))
    failing = {invariant.number: invariant for invariant in result.proof if not invariant.holds}
    assert {9, 10} <= failing.keys()
    assert failing[10].found.startswith("conversation ")
    assert "did not move" in failing[9].found
    assert result.to_json()["holds"] is False


def test_rows_that_are_gone_or_changed_keep_the_figures_of_the_run(
    train_options: Callable[..., TrainConfig], hone_home: Path, tmp_path: Path
) -> None:
    config = train_options(output=str(tmp_path / "out"), max_steps=2)
    train(config, home=hone_home, recorder=Listener())
    Path(config.data).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    result = proven(hone_home, version=str(tmp_path / "out"))
    assert sorted(result.as_stored) == [1, 2, 3, 4, 5, 6, 7, 8, 12]
    assert "has changed since the run" in result.as_stored[1]
    assert [invariant.number for invariant in result.proof] == list(range(1, 12)), "12 was never measured"
    Path(config.data).unlink()
    assert "is not there any more" in proven(hone_home, version=str(tmp_path / "out")).as_stored[8]


def test_a_base_carries_no_proof(finished: Finished) -> None:
    with pytest.raises(ConfigError, match="it carries no proof"):
        proven(finished.home, version=finished.config.model)


@pytest.mark.parametrize("given", [{}, {"version": "questions", "data": "rows.jsonl"}])
def test_either_a_version_or_rows_are_named(finished: Finished, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="name either a version or run, or rows with --data"):
        proven(finished.home, **given)


# --- rows, before a run ---


def test_rows_are_checked_without_a_run(tiny_base: Path, hone_home: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(30)])
    result = proven(hone_home, data=str(data), model=str(tiny_base))
    assert [invariant.number for invariant in result.proof] == list(range(1, 9))
    assert all(invariant.holds for invariant in result.proof)
    assert result.as_stored == {}
    assert result.name == f"rows.jsonl with {tiny_base}"
    assert not (hone_home / "runs").exists()


def test_a_row_that_is_also_held_out_is_left_out_as_in_a_run(tiny_base: Path, hone_home: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(30)])
    aside = write_jsonl(tmp_path / "aside.jsonl", [row(3), row(60)])
    result = proven(hone_home, data=str(data), model=str(tiny_base), eval=str(aside))
    eighth = next(invariant for invariant in result.proof if invariant.number == 8)
    assert eighth.holds
    assert eighth.checked == "29 training against 2 held-out rows"


# --- loading ---


def test_a_version_that_reproduces_its_probe_is_loaded(finished: Finished) -> None:
    notes: list[str] = []
    answerer = load("questions", finished.home, notes)
    assert notes == []
    assert answerer.reproduced is not None
    assert (answerer.reproduced.holds, answerer.reproduced.measured) == (True, 0.0)
    assert load(finished.config.model, finished.home).reproduced is None


def test_one_that_does_not_is_refused_with_the_first_token(finished: Finished, copied: Path) -> None:
    zero_adapter(copied)
    with pytest.raises(ProofError, match=r"copied is not what was saved: conversation 'question', token \d+") as raised:
        load(copied, finished.home)
    assert "hone proof copied" in str(raised.value.remedy)
    found = load(copied, finished.home, refuse_changed=False).reproduced
    assert found is not None
    assert not found.holds


def test_a_version_of_old_is_loaded_and_it_is_said(finished: Finished, copied: Path) -> None:
    for name in PROBE_NAMES:
        (copied / "adapter" / name).unlink()
    notes: list[str] = []
    assert load(copied, finished.home, notes).reproduced is None
    assert any("has no probe" in note for note in notes)


def test_a_damaged_probe_is_refused(finished: Finished, copied: Path) -> None:
    (copied / "adapter" / PROBE_NAMES[0]).write_text("{}", encoding="utf-8")
    with pytest.raises(StorageError, match="the probe cannot be read"):
        load(copied, finished.home)


def test_a_changed_template_is_refused_with_the_first_token_that_differs(
    run_options: Callable[..., RunConfig], own_base: Path, hone_home: Path, evaluated_here: None
) -> None:
    run(run_options(model=str(own_base), max_steps=1), home=hone_home, recorder=Listener())
    path = own_base / "chat_template.jinja"
    path.write_text(OTHER_TEMPLATE, encoding="utf-8")
    with pytest.raises(ModelError) as raised:
        load("questions", hone_home)
    assert raised.value.details
    assert raised.value.details[0].startswith("conversation 'question'")


def test_an_unproven_version_is_loaded_with_a_note(finished: Finished, tmp_path: Path) -> None:
    """Of twelve invariants one did not hold: it can be looked at, and whoever looks is told."""
    home = tmp_path / "home"
    proof = [dict(one) for one in finished.result["proof"]]
    proof[-1] |= {"holds": False, "measured": 0.25}
    register_version(
        home, name="bad", run=RunFolder.open(finished.folder), base_name=finished.config.model,
        base_hash=finished.result["base"]["hash"], template_hash="t", data_manifest={"source": {}}, proof=proof,
    )  # fmt: skip
    notes: list[str] = []
    assert load("bad", home, notes).is_tuned
    [note] = notes
    assert note.startswith("bad@1 is unproven: 12. the model ends its answers: measured 0.25")


def test_a_version_known_not_to_reproduce_is_loaded_with_a_note(
    finished: Finished, copied: Path, tmp_path: Path
) -> None:
    zero_adapter(copied)
    home = tmp_path / "home"
    proof = [one | {"holds": one["number"] != 10} for one in finished.result["proof"]]
    register_version(
        home, name="bad", run=RunFolder.open(copied), base_name=finished.config.model,
        base_hash=finished.result["base"]["hash"], template_hash="t", data_manifest={"source": {}}, proof=proof,
    )  # fmt: skip
    notes: list[str] = []
    found = load("bad", home, notes)
    assert found.reproduced is not None
    assert not found.reproduced.holds
    assert any("is unproven: 10." in note for note in notes)


def test_the_proof_files_agree_with_the_result(finished: Finished) -> None:
    assert json.loads((finished.folder / "proof.json").read_text(encoding="utf-8")) == finished.result["proof"]
    assert set(PROBE_NAMES) <= {path.name for path in (finished.folder / "adapter").iterdir()}
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    for invariant in finished.result["proof"]:
        assert html.escape(invariant["name"], quote=False).replace("'", "&#39;") in report
