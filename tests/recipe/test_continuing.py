"""A version goes on: which rows it is trained on, where it starts, what lineage says, and rows that are forgotten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hone.config import ContinueConfig, RunConfig, TrainConfig, load_config
from hone.data.loader import load_examples
from hone.data.manifest import example_hash
from hone.errors import ConfigError, DataError, ModelError
from hone.recipe import starting
from hone.recipe.composition import Composition, compose
from hone.recipe.continuing import continue_version
from hone.recipe.run import train
from hone.recipe.versions_diff import diff_versions
from hone.registry import family_of, remove_version, resolve_version
from hone.types import JsonDict
from tests.recipe.conftest import Finished, Listener, read_jsonl, row, write_jsonl


@dataclass(frozen=True)
class Continued:
    """A version that was made from another, with new rows 40 to 69."""

    home: Path
    new: Path
    result: JsonDict
    heard: Listener


def options(**given: Any) -> ContinueConfig:
    return ContinueConfig.model_validate(
        {"version": "questions@1", "device": "cpu", "dtype": "float32", "epochs": 2, "learning_rate": 5e-3, **given}
    )


@pytest.fixture(scope="module")
def continued(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Continued:
    folder = tmp_path_factory.mktemp("continued")
    home = Path(shutil.copytree(finished.home, folder / "home"))
    new = write_jsonl(folder / "new.jsonl", [row(number) for number in range(40, 70)])
    heard = Listener()
    result = continue_version(options(data=str(new), replay=0.5, max_new_tokens=8), home=home, recorder=heard)
    return Continued(home, new, result, heard)


@pytest.fixture
def home(continued: Continued, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(continued.home, tmp_path / "home"))


@pytest.fixture
def composing(home: Path) -> Callable[..., tuple[Composition, str]]:
    """Puts rows together, and gives what was noted."""

    def make(**given: Any) -> tuple[Composition, str]:
        notes: list[str] = []
        config = options(**given)
        composed = compose(config, resolve_version(home, config.version), home=home, note=notes.append)
        return composed, "\n".join(notes)

    return make


def hashes(path: Path | str) -> list[str]:
    return [example_hash(one) for one in load_examples(str(path)).examples]


def parts(home: Path, reference: str) -> dict[str, set[str]]:
    manifest = resolve_version(home, reference).data_manifest
    return {part: {one["sha256"] for one in manifest[part]} for part in ("train", "validation", "held_out")}


def test_new_rows_and_a_stated_share_of_old_ones_are_trained_on(continued: Continued) -> None:
    version = resolve_version(continued.home, "questions@2")
    assert continued.result["version"] == "questions@2"
    old, new = parts(continued.home, "questions@1"), parts(continued.home, "questions@2")
    was_trained = old["train"] | old["validation"]
    now_trained = new["train"] | new["validation"]
    assert version.lineage is not None
    counts = version.lineage["rows"]
    assert counts["old"] == len(was_trained) == 32
    assert counts["replayed"] == len(was_trained & now_trained) == 16
    fresh = set(hashes(continued.new))
    assert now_trained - was_trained == fresh - new["held_out"]
    assert counts["new"] == len(now_trained - was_trained)
    assert version.lineage["replay_share"] == 0.5
    assert "16 of 32 old ones (50%), from questions@1" in continued.heard.notes()


def test_it_is_judged_on_old_and_new_held_out_rows(continued: Continued) -> None:
    old, new = parts(continued.home, "questions@1"), parts(continued.home, "questions@2")
    assert old["held_out"] < new["held_out"]
    assert new["held_out"] - old["held_out"] < set(hashes(continued.new))
    update = continued.result["update"]
    assert update["old"]["comparison"]["rows"] == len(old["held_out"]) == 8
    assert update["new"]["comparison"]["rows"] == len(new["held_out"] - old["held_out"]) == 8
    assert update["old"]["rows_trained_on"] == update["new"]["rows_trained_on"] == 0
    stored = json.loads((Path(continued.result["run_dir"]) / "update.json").read_text(encoding="utf-8"))
    assert stored == update


def test_it_starts_where_the_version_ended(continued: Continued) -> None:
    sixth = next(one for one in continued.result["proof"] if one["number"] == 6)
    assert sixth["name"] == "at the start the model equals questions@1"
    assert sixth["holds"]
    assert sixth["measured"] < 1e-4
    ninth = next(one for one in continued.result["proof"] if one["number"] == 9)
    assert ninth["holds"]
    before, after = (
        load_file(resolve_version(continued.home, name).adapter / "adapter_model.safetensors")
        for name in ("questions@1", "questions@2")
    )
    assert before.keys() == after.keys()
    factors = {name: tensor for name, tensor in before.items() if ".lora_A." in name}
    drawn = {name for name, tensor in factors.items() if torch.norm(after[name] - tensor) > torch.norm(tensor) / 2}
    assert drawn == set(), "each A lies near the version's, and not near a new draw"


def test_lineage_is_a_tree(continued: Continued) -> None:
    version = resolve_version(continued.home, "questions@2")
    assert version.parent == "questions@1"
    assert version.code is not None
    [root] = family_of(continued.home, version).roots
    assert (root.version.reference, [child.version.reference for child in root.children]) == (
        "questions@1", ["questions@2"],
    )  # fmt: skip


def test_the_difference_of_both_versions(continued: Continued) -> None:
    found = diff_versions("questions@1", "questions@2", home=continued.home)
    old, new = (set.union(*parts(continued.home, name).values()) for name in ("questions@1", "questions@2"))
    assert {one["sha256"] for one in found["data"]["added"]} == new - old
    assert {one["sha256"] for one in found["data"]["removed"]} == old - new
    assert found["data"]["changed"] == []
    assert found["origin"]["parent"] == {"old": None, "new": "questions@1"}
    assert found["config"]["start_from"] == {"old": None, "new": "questions@1"}
    assert found["answers"]["rows"] == 8
    rows = read_jsonl(Path(continued.result["run_dir"]) / "answers.jsonl")
    stored = {row["prompt"]: row["answers"]["tuned"] for row in rows}
    for flip in found["answers"]["comparison"]["flipped"]:
        assert stored[flip["prompt"]] == flip["new"] != flip["old"]


def test_the_same_command_draws_the_same_rows(continued: Continued, composing: Any) -> None:
    one, _ = composing(data=str(continued.new), replay=5)
    other, _ = composing(data=str(continued.new), replay=5)
    another, _ = composing(data=str(continued.new), replay=5, seed=1)
    assert one.folder == other.folder
    assert set(hashes(one.rows)) != set(hashes(another.rows))
    assert one.lineage["rows"]["replayed"] == 5


def test_as_many_old_rows_as_new_ones_unless_given(continued: Continued, composing: Any) -> None:
    counts = composing(data=str(continued.new))[0].lineage["rows"]
    assert counts["replayed"] == counts["new"] == 22
    assert composing(data=str(continued.new), replay=0)[0].lineage["rows"]["replayed"] == 0


def test_what_goes_on_again_replays_rows_of_the_whole_line(
    continued: Continued, composing: Any, tmp_path: Path
) -> None:
    third = write_jsonl(tmp_path / "third.jsonl", [row(number) for number in range(70, 80)])
    composed, _ = composing(version="questions@2", data=str(third), replay=1000)
    old, new = parts(continued.home, "questions@1"), parts(continued.home, "questions@2")
    every = (old["train"] | old["validation"] | new["train"] | new["validation"]) - new["held_out"]
    assert composed.lineage["rows"]["old"] == len(every) == 54
    assert every <= set(hashes(composed.rows))


def test_copies_of_old_rows_are_no_new_ones_and_are_not_held_out(home: Path, composing: Any, tmp_path: Path) -> None:
    trained_on = resolve_version(home, "questions@1").data_manifest["train"]
    same = [row(one["row"] - 1) for one in trained_on[:5]]
    near = [{**one, "prompt": one["prompt"].replace("what of", "What of")} for one in same]
    data = write_jsonl(tmp_path / "mixed.jsonl", [*same, *near, *(row(number) for number in range(40, 60))])
    composed, notes = composing(data=str(data))
    assert "5 of the new rows are old ones, word for word" in notes
    new_held_out = load_examples(str(composed.held_out_part("new"))).examples
    assert not [one for one in new_held_out if one.prompt[-1].content.startswith("What of")]


def test_a_changed_file_of_old_rows_is_found(continued: Continued, home: Path, composing: Any) -> None:
    path = Path(load_config_values(home)["data"])
    rows = path.read_text(encoding="utf-8")
    try:
        path.write_text(rows.replace("the lamp is lit", "the lamp is out"), encoding="utf-8")
        with pytest.raises(DataError, match=r"of the 32 rows that questions@1 was trained on are not in it any more"):
            composing(data=str(continued.new))
    finally:
        path.write_text(rows, encoding="utf-8")


def load_config_values(home: Path) -> JsonDict:
    return load_config(RunConfig, {}, file=resolve_version(home, "questions@1").run_folder / "config.yaml").model_dump()


def test_a_forgotten_row_is_nowhere_and_does_not_come_back(home: Path, tmp_path: Path, composing: Any) -> None:
    version = resolve_version(home, "questions@2")
    old = load_examples(str(load_config_values(home)["data"])).examples
    trained = parts(home, "questions@1")["train"]
    gone = next(one for one in old if example_hash(one) in trained)
    forget = write_jsonl(tmp_path / "forget.jsonl", [row(gone.row - 1)])
    heard = Listener()
    result = continue_version(
        options(version="questions@2", without=str(forget), max_new_tokens=8, max_steps=3), home=home, recorder=heard
    )
    anew = resolve_version(home, result["version"])
    assert anew.reference == "questions@3"
    assert anew.lineage is not None
    assert (anew.lineage["relation"], anew.lineage["starts_from"]) == ("retrained", version.base_name)
    assert anew.lineage["forgotten"] == [example_hash(gone)]
    assert example_hash(gone) not in set.union(*parts(home, "questions@3").values())
    before = set.union(*parts(home, "questions@1").values(), *parts(home, "questions@2").values())
    assert set.union(*parts(home, "questions@3").values()) == before - {example_hash(gone)}
    sixth = next(one for one in result["proof"] if one["number"] == 6)
    assert sixth["name"] == "with the adapter at initialisation the model equals its base"
    # in later new data it is left out
    again = write_jsonl(tmp_path / "again.jsonl", [row(gone.row - 1), *(row(number) for number in range(70, 90))])
    composed, notes = composing(version="questions@3", data=str(again))
    assert "1 of the new rows are left out, because they were to be forgotten" in notes
    assert example_hash(gone) not in {*hashes(composed.rows), *hashes(composed.held_out)}
    assert composed.lineage["forgotten"] == [example_hash(gone)]


def test_rows_to_forget_by_number(home: Path, composing: Any) -> None:
    manifest = resolve_version(home, "questions@1").data_manifest
    wanted = manifest["train"][:2]
    composed, _ = composing(without=",".join(str(one["row"]) for one in wanted))
    assert composed.lineage["forgotten"] == sorted(one["sha256"] for one in wanted)
    with pytest.raises(ConfigError, match="was not trained on row 9999"):
        composing(without="9999")


def test_rows_that_are_none_of_the_version_cannot_be_forgotten(composing: Any, tmp_path: Path) -> None:
    strange = write_jsonl(tmp_path / "strange.jsonl", [{"prompt": "who?", "completion": "nobody"}])
    with pytest.raises(ConfigError, match="none of its 1 rows is a row of questions@1"):
        composing(without=str(strange))


def test_there_must_be_something_to_do(composing: Any) -> None:
    with pytest.raises(ConfigError, match="there is nothing to train on"):
        composing()


def test_a_removed_ancestor_is_said(home: Path, composing: Any, tmp_path: Path) -> None:
    remove_version(home, resolve_version(home, "questions@1"))
    third = write_jsonl(tmp_path / "third.jsonl", [row(number) for number in range(70, 80)])
    composed, notes = composing(version="questions@2", data=str(third), replay=1000)
    assert "rows that only questions@1 was trained on are not known any more" in notes
    assert composed.lineage["rows"]["old"] == 38


def test_an_adapter_goes_on_as_it_is(home: Path, train_options: Callable[..., TrainConfig]) -> None:
    wrong = train_options(start_from="questions@1", rank=3, layers="q_proj", alpha=None)
    with pytest.raises(ConfigError, match="goes on as it is") as caught:
        train(wrong, home=home, recorder=Listener())
    assert [one.split()[0] for one in caught.value.details] == ["--rank", "--layers"]
    config = train_options(start_from="questions@1", rank=None)
    result = train(config, home=home, recorder=Listener())
    assert result["training"]["rank"] == resolve_rank(home)


def resolve_rank(home: Path) -> int:
    adapter = resolve_version(home, "questions@1").adapter
    return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])


def test_what_is_no_low_rank_adapter_does_not_go_on(home: Path) -> None:
    version = resolve_version(home, "questions@1")
    config = json.loads((version.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "adapter_kind", lambda _folder: "IA3")
        with pytest.raises(ModelError, match="is no low-rank adapter"):
            starting.require_continuable(version)
    assert starting.require_continuable(version) == config
