"""The gate of an alias: what passes, what is refused and by which figure, what force leaves behind; and back again."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hone.errors import ConfigError, ModelError, PromotionError, StorageError, VersionError
from hone.recipe import gate
from hone.recipe.head_to_head import Answers
from hone.recipe.inference import load_answerer
from hone.recipe.promote import promote
from hone.recipe.reverting import revert
from hone.registry import Version, create_run, find_alias, history_of_alias, register_version, resolve_version
from hone.registry.store import aliases, open_store
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, read_jsonl

HOLDS = [{"number": 1, "name": "rows", "holds": True, "measured": 0.0, "bound": "= 0"}]
ENDS = {"number": 12, "name": "the model ends its answers", "holds": False, "measured": 0.5, "bound": ">= 0.9"}
FAILS = [*HOLDS, ENDS]


@pytest.fixture
def home(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run's home, whose version is not asked about."""
    return Path(shutil.copytree(finished.home, tmp_path / "copied-home"))


MakeVersion = Callable[..., Version]


@pytest.fixture
def made(home: Path) -> MakeVersion:
    """Registers further versions ``v@1``, ``v@2`` with the finished run's adapter and held-out rows."""
    first = resolve_version(home, "questions@1")

    def make(*, proof: list[JsonDict] = HOLDS, worse: bool = False, trained_on: Sequence[JsonDict] = ()) -> Version:
        run = create_run(home, kind="run", name="v")
        shutil.copytree(first.adapter, run.adapter)
        for name in ("held_out.jsonl", "config.yaml", "evaluation.json"):
            shutil.copy(first.run_folder / name, run.path / name)
        run.finish({"generation": {"max_new_tokens": 8}})
        evaluation = copy.deepcopy(first.evaluation)
        assert evaluation is not None
        if worse:
            evaluation["differences"][0] |= {"difference": -20.0, "interval": [-30.0, -10.0], "different": True}
        holds = all(one["holds"] for one in proof)
        return register_version(
            home, name="v", run=run, base_name=first.base_name, base_hash=first.base_hash,
            template_hash=first.template_hash, data_manifest={**first.data_manifest, "train": list(trained_on)},
            evaluation=evaluation, proof=proof, status="proven" if holds else "unproven",
        )  # fmt: skip

    return make


def answering(monkeypatch: pytest.MonkeyPatch, right: dict[str, int]) -> None:
    """Each version gives the right answer to its first rows, this many, and a wrong one to the others."""

    def answers(reference: str, path: Path, **_more: Any) -> Answers:
        rows = read_jsonl(path)
        evaluation = json.loads((path.parent / "evaluation.json").read_text(encoding="utf-8"))
        texts = {
            at + 1: row["messages"][-1]["content"] if at < right[reference] else "wrong" for at, row in enumerate(rows)
        }
        return Answers(texts, evaluation, 8)

    monkeypatch.setattr(gate, "answer_rows", answers)


def moved_to(home: Path) -> str | None:
    found = find_alias(home, "v@production")
    return None if found is None else found.reference


def test_where_nothing_stands_the_base_is_what_it_is_held_against(home: Path, made: MakeVersion) -> None:
    made()
    result = promote("v@1", "production", home=home, recorder=Listener())
    assert (result["moved"], result["was"], result["forced"]) == (True, None, False)
    figures = {one["name"]: one for one in result["figures"]}
    assert (figures["proof"]["holds"], figures["evaluation"]["holds"], figures["retention"]["holds"]) == (
        True, True, None,
    )  # fmt: skip
    assert "not worse than its base on 8 held-out rows" in figures["evaluation"]["found"]
    assert figures["retention"]["found"].startswith("not measured")
    assert moved_to(home) == "v@1"
    again = promote("v@1", "production", home=home, recorder=Listener())
    assert again["moved"] is False
    assert len(history_of_alias(home, "v", "production")) == 1


def test_a_refusal_names_every_figure_that_failed(home: Path, made: MakeVersion) -> None:
    version = made(proof=FAILS, worse=True)
    losses = ["-9.0 points on general questions"]
    path = version.run_folder / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "retention": {"kept": False, "losses": losses}}))
    with pytest.raises(PromotionError, match="proof and evaluation and retention failed") as caught:
        promote("v@1", "production", home=home, recorder=Listener())
    told = "\n".join(caught.value.details)
    assert "12. the model ends its answers: measured 0.5, bound >= 0.9" in told
    assert "evaluation fails: worse than its base" in told
    assert losses[0] in told
    assert moved_to(home) is None


def test_retention_within_its_bounds_passes_and_off_is_said(home: Path, made: MakeVersion) -> None:
    for kept, holds in ((True, True), (None, None)):
        version = made()
        path = version.run_folder / "evaluation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "retention": {"kept": kept, "losses": []}}))
        assert gate.retention_figure(version).holds is holds


def test_force_needs_a_reason_and_both_stay_in_the_history(home: Path, made: MakeVersion) -> None:
    made(proof=FAILS)
    with pytest.raises(ConfigError, match="needs a reason"):
        promote("v@1", "production", home=home, recorder=Listener(), force=True)
    promote("v@1", "production", home=home, recorder=Listener(), force=True, reason="a demonstration")
    [move] = history_of_alias(home, "v", "production")
    assert (move.forced, move.reason) == (True, "a demonstration")
    assert move.gate is not None
    assert [one["name"] for one in move.gate["figures"] if one["holds"] is False] == ["proof"]


def test_a_force_that_was_not_needed_is_not_recorded_as_one(home: Path, made: MakeVersion) -> None:
    made()
    result = promote("v@1", "production", home=home, recorder=Listener(), force=True, reason="to be sure")
    assert result["forced"] is False
    assert history_of_alias(home, "v", "production")[0].forced is False


def test_a_version_that_is_worse_than_the_one_that_stands_there_is_refused(
    home: Path, made: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        made()
    answering(monkeypatch, {"v@1": 8, "v@2": 1, "v@3": 7})
    promote("v@1", "production", home=home, recorder=Listener())
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("v@2", "production", home=home, recorder=Listener())
    told = "\n".join(caught.value.details)
    assert "evaluation fails: worse than v@1 on 8 of its held-out rows" in told
    assert "against 100.00 (difference -" in told
    # one answer of eight may be chance
    result = promote("v@3", "production", home=home, recorder=Listener())
    figure = result["figures"][1]
    assert figure["holds"] is True
    assert len(figure["numbers"]["comparison"]["flipped"]) == 1
    kept = history_of_alias(home, "v", "production")[-1].gate
    assert kept is not None
    assert kept["figures"][1]["numbers"]["comparison"]["flipped"] == {"better": 0, "worse": 1}
    assert moved_to(home) == "v@3"


def test_what_scores_and_what_answers_do_not_take_each_others_place(
    home: Path, made: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    made()
    judge = made()
    monkeypatch.setattr(gate, "is_reward_model", lambda folder: folder == judge.run_folder)
    promote("v@1", "production", home=home, recorder=Listener())
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("v@2", "production", home=home, recorder=Listener())
    told = "\n".join(caught.value.details)
    assert "v@2 is a reward model and the other is none" in told
    assert "another --name" in told
    promote("v@2", "production", home=home, recorder=Listener(), force=True, reason="to try the way back")
    with pytest.raises(PromotionError, match="evaluation failed"):
        promote("v@1", "production", home=home, recorder=Listener())


def test_rows_that_the_new_version_was_trained_on_say_nothing(
    home: Path, made: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = made().data_manifest
    made(trained_on=manifest["held_out"][:3])
    made(trained_on=manifest["held_out"])
    answering(monkeypatch, {"v@1": 8, "v@2": 8, "v@3": 8})
    promote("v@1", "production", home=home, recorder=Listener())
    found = promote("v@2", "production", home=home, recorder=Listener())
    assert "on 5 of its held-out rows" in found["figures"][1]["found"]
    assert "3 rows left out, because it was trained on them" in found["figures"][1]["found"]
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("v@3", "production", home=home, recorder=Listener())
    assert "too few rows to compare it with v@2" in "\n".join(caught.value.details)


def test_what_cannot_be_compared_is_refused_and_can_be_forced(home: Path, made: MakeVersion) -> None:
    current, _ = made(), made()
    promote("v@1", "production", home=home, recorder=Listener())
    (current.run_folder / "held_out.jsonl").unlink()
    with pytest.raises(PromotionError, match="evaluation failed") as caught:
        promote("v@2", "production", home=home, recorder=Listener())
    assert "it could not be compared with v@1" in "\n".join(caught.value.details)
    promote("v@2", "production", home=home, recorder=Listener(), force=True, reason="the rows are lost")
    assert moved_to(home) == "v@2"


def damage(version: Version) -> None:
    weights = version.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_damaged_files_are_refused_whatever_is_forced(home: Path, made: MakeVersion) -> None:
    damage(made())
    with pytest.raises(StorageError, match="the adapter of v@1 is damaged") as caught:
        promote("v@1", "production", home=home, recorder=Listener(), force=True, reason="now")
    assert "adapter_model.safetensors: differs" in caught.value.details[0]


def test_both_versions_really_answer(home: Path, made: MakeVersion) -> None:
    made()
    made()
    promote("v@1", "production", home=home, recorder=Listener())
    result = promote("v@2", "production", home=home, recorder=Listener(), options={"device": "cpu", "dtype": "float32"})
    compared = result["figures"][1]["numbers"]["comparison"]
    assert (compared["rows"], compared["same_words"], compared["difference"]) == (8, 8, 0.0)
    assert compared["old"] > 50


def test_reverting_ends_on_the_base_which_then_answers(home: Path, made: MakeVersion) -> None:
    for _ in range(2):
        made()
    promote("v@1", "production", home=home, recorder=Listener())
    promote("v@2", "production", home=home, recorder=Listener(), options={"device": "cpu", "dtype": "float32"})
    assert revert("v@production", home=home)["now"] == "v@1"
    back = revert("v@production", home=home, reason="both were wrong")
    assert back["was"] == "v@1"
    answerer = load_answerer("v@production", home=home, device="cpu", dtype="float32", note=lambda _text: None)
    assert not answerer.is_tuned
    assert answerer.name == back["now"]
    with pytest.raises(VersionError, match="cannot be reverted"):
        revert("v@production", home=home)


def test_it_does_not_revert_to_a_damaged_version(home: Path, made: MakeVersion) -> None:
    first, _ = made(), made()
    promote("v@1", "production", home=home, recorder=Listener())
    promote("v@2", "production", home=home, recorder=Listener(), options={"device": "cpu", "dtype": "float32"})
    damage(first)
    with pytest.raises(StorageError, match="the adapter of v@1 is damaged") as caught:
        revert("v@production", home=home)
    assert "revert with --to to another place: base" in str(caught.value.remedy)
    assert revert("v@production", home=home, to="base")["was"] == "v@2"
    with pytest.raises(ConfigError, match="is no place"):
        revert("v@production", home=home, to="first")


def test_a_base_that_has_changed_does_not_answer_for_an_alias(home: Path, made: MakeVersion) -> None:
    made()
    promote("v@1", "production", home=home, recorder=Listener())
    revert("v@production", home=home)
    with open_store(home).write() as connection:
        connection.execute(aliases.update().values(base_hash="0" * 64))
    with pytest.raises(ModelError, match="its files changed"):
        load_answerer("v@production", home=home, device="cpu", dtype="float32", note=lambda _text: None)
