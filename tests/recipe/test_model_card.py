"""The model card: metadata that the hub's own library reads, and the figures of comparison and proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hone.model.catalog import ModelSource
from hone.recipe.model_card import write_model_card
from hone.registry import resolve_version, verify_version
from tests.recipe.conftest import Finished


def card_of(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


def test_a_run_leaves_a_card_with_its_figures(finished: Finished) -> None:
    card = card_of(finished.folder / "adapter")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert set(data.tags) == {"hone", "lora", "sft"}
    assert data.base_model is None, "a folder of this machine is nothing to the hub"
    assert data.license is None, "nobody but the base's authors can say it"
    assert data.model_name == "questions@1"
    tuned = finished.result["evaluation"]["arms"]["tuned"]["metrics"]
    measured = {one.metric_type: one.metric_value for one in data.eval_results}
    assert measured == {name: pytest.approx(value, abs=1e-3) for name, value in tuned.items() if value is not None}
    assert measured
    for invariant in finished.result["proof"]:
        assert f"| {invariant['number']} | {invariant['name']} | holds |" in card.text
    held = len(finished.result["proof"])
    assert f"{held} of {held} invariants hold" in card.text
    assert finished.result["base"]["hash"] in card.text
    assert finished.result["verdict"]["decision"].replace("_", " ") in card.text


def test_it_names_no_path_of_this_machine_and_no_text_of_a_row(finished: Finished) -> None:
    text = (finished.folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert str(finished.home.parent) not in text
    assert str(Path(finished.config.model).parent) not in text
    assert "what of the" not in text


@pytest.mark.parametrize(
    ("source", "base_model", "license_name"),
    [
        (ModelSource("embedded", "smollm2-135m-instruct"), "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        (ModelSource("hub", "org/base"), "org/base", None),
        (ModelSource("gguf", "x/base.gguf", Path("x/base.gguf")), None, None),
    ],
    ids=["embedded", "hub", "gguf"],
)
def test_base_and_licence_are_those_of_the_base(
    finished: Finished, tmp_path: Path, source: ModelSource, base_model: str | None, license_name: str | None
) -> None:
    write_model_card(tmp_path, "questions@1", finished.result, source=source)
    data = card_of(tmp_path).data
    assert (data.base_model, data.license) == (base_model, license_name)


def test_the_licence_of_a_folder_is_that_of_its_own_card(finished: Finished, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A base\n", encoding="utf-8")
    write_model_card(tmp_path, "questions@1", finished.result, source=ModelSource("folder", "base", base))
    assert card_of(tmp_path).data.license == "mit"


def test_a_training_alone_has_a_card_without_a_comparison(finished: Finished, tmp_path: Path) -> None:
    bare = {key: finished.result[key] for key in ("base", "data", "training", "proof")}
    write_model_card(tmp_path, "run", bare, source=ModelSource("hub", "org/base"))
    card = card_of(tmp_path)
    assert card.data.eval_results is None
    assert "Not compared with its base" in card.text
    assert "not registered" in card.text


@pytest.mark.parametrize(("adaptation", "library"), [("full", "transformers"), ("partial", None), ("vera", "peft")])
def test_the_library_is_the_one_that_loads_it(
    finished: Finished, tmp_path: Path, adaptation: str, library: str | None
) -> None:
    training = finished.result["training"] | {"adaptation": adaptation}
    write_model_card(tmp_path, "run", finished.result | {"training": training}, source=ModelSource("hub", "org/base"))
    card = card_of(tmp_path)
    assert card.data.library_name == library
    assert ("PeftModel" in card.text) == (library == "peft")


def test_markup_in_names_stays_text(finished: Finished, tmp_path: Path) -> None:
    data = finished.result["data"] | {"source": "a|b`<script>\n# c.jsonl"}
    write_model_card(tmp_path, "run", finished.result | {"data": data}, source=ModelSource("hub", "org/base"))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "a\\|b\\`\\<script\\> # c.jsonl" in text


def test_a_card_that_somebody_edits_is_no_damage(finished: Finished) -> None:
    version = resolve_version(finished.home, "questions")
    assert "README.md" not in version.adapter_files
    path = version.adapter / "README.md"
    before = path.read_text(encoding="utf-8")
    path.write_text(before + "\nMore about it.\n", encoding="utf-8")
    try:
        verify_version(version)
    finally:
        path.write_text(before, encoding="utf-8")
