"""From a name to something that answers: found, checked, and refused where it is not what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hone.config import RunConfig, TrainConfig
from hone.errors import ConfigError, ModelError, StorageError, VersionError
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.lora import adapted_layers
from hone.recipe.inference import Answerer, load_answerer, make_renderer, training_path
from hone.recipe.run import run, train
from hone.registry import set_alias
from hone.types import Message
from tests.recipe.conftest import Finished, Listener, row
from tests.tiny import CHATML, row_logits, save_tiny, tiny_model, tiny_tokenizer, without_sums


def load(reference: str | Path, home: Path, notes: list[str] | None = None, **given: Any) -> Answerer:
    heard = [] if notes is None else notes
    return load_answerer(str(reference), home=home, device="cpu", dtype="float32", note=heard.append, **given)


QUESTION = [Message("user", row(3)["prompt"])]


def test_a_base_answers_by_its_name_alone(tiny_base: Path, hone_home: Path) -> None:
    found = load(tiny_base, hone_home)
    assert (found.is_tuned, found.run_folder, found.version, found.notes) == (False, None, None, {})
    assert list(adapted_layers(found.base.model)) == []
    assert not found.reference_path


@pytest.mark.parametrize("form", ["name", "number", "alias", "folder", "relative folder"])
def test_a_version_answers_by_all_its_names(
    finished: Finished, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(finished.home, tmp_path / "home"))  # other tests share the run's own
    folder = home / finished.folder.relative_to(finished.home)
    set_alias(home, "questions", "production", 1)
    monkeypatch.chdir(folder.parent)
    references = {
        "name": "questions", "number": "questions@1", "alias": "questions@production", "folder": str(folder),
        "relative folder": folder.name,
    }  # fmt: skip
    found = load(references[form], home)
    assert found.is_tuned
    assert found.run_folder == folder
    assert found.name == (folder.name if "folder" in form else "questions@1")
    assert len(list(adapted_layers(found.base.model))) == 14
    assert found.prompt(QUESTION) == load(finished.config.model, home).prompt(QUESTION)


def test_what_is_loaded_is_the_base_and_the_adapter_that_was_saved(finished: Finished) -> None:
    """Layer by layer: the base's own weights, and the stored A and B."""
    found = load("questions", finished.home)
    stored = load_file(finished.folder / "adapter" / "adapter_model.safetensors")
    plain = dict(tiny_model("llama", max_position_embeddings=512).named_parameters())
    for name, layer in adapted_layers(found.base.model):
        assert torch.equal(layer.base.weight, plain[f"{name}.weight"])
        assert torch.equal(layer.lora_A, stored[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(layer.lora_B, stored[f"base_model.model.{name}.lora_B.weight"])
        assert (
            layer.scaling == found.notes["alpha_over_rank"] if "alpha_over_rank" in found.notes else layer.scaling == 2
        )


def test_text_leaves_special_tokens_out(tiny_base: Path, hone_home: Path) -> None:
    found = load(tiny_base, hone_home)
    ids = found.base.tokenizer("the lamp<|im_end|>", add_special_tokens=False)["input_ids"]
    assert found.text(ids) == "the lamp"


def test_a_version_answers_from_every_working_folder(
    tiny_base: Path, hone_home: Path, tmp_path: Path, run_options: Callable[..., RunConfig], evaluated_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The base was named by a path relative to where the training ran."""
    monkeypatch.chdir(tiny_base.parent)
    run(run_options(model=tiny_base.name, max_steps=1), home=hone_home, recorder=Listener())
    monkeypatch.chdir(tmp_path)
    assert load("questions", hone_home).is_tuned


# --- names that name nothing ---


def test_an_unknown_name_is_neither_a_version_nor_a_base(finished: Finished) -> None:
    with pytest.raises(VersionError, match="nor is it a base") as raised:
        load("question", finished.home)
    assert "questions" in raised.value.what, "the nearest one is named"


def test_an_unknown_number_is_no_base_either(finished: Finished) -> None:
    with pytest.raises(VersionError, match="there is no version 'questions@7'"):
        load("questions@7", finished.home)


def test_a_folder_that_is_neither_run_nor_base_is_refused(tmp_path: Path, hone_home: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load(tmp_path, hone_home)


@pytest.mark.parametrize("content", [(), ("notes.txt",)])
def test_a_folder_without_a_model_does_not_hide_a_version(
    finished: Finished, tmp_path: Path, content: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions").mkdir()
    for name in content:
        (tmp_path / "questions" / name).write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load("questions", finished.home).name == "questions@1"


@pytest.mark.parametrize("what", ["base", "run"])
def test_a_model_folder_of_a_versions_name_is_meant_and_that_is_said(
    finished: Finished, tiny_base: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base if what == "base" else finished.folder, tmp_path / "questions")
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    found = load("questions", finished.home, notes)
    assert found.version is None
    assert found.is_tuned is (what == "run")
    assert "the folder questions is meant; the version of that name is questions@1" in notes
    assert load("questions@1", finished.home).version is not None


@pytest.mark.parametrize(
    ("notes", "said"), [(None, "is missing"), ({}, "base_name, base_hash"), ({"template": {}}, "template.thinking")]
)
def test_a_run_whose_notes_are_gone_or_empty_is_refused_by_their_file(
    finished: Finished, tmp_path: Path, notes: dict[str, Any] | None, said: str
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    path = without_sums(folder / "adapter") / "hone.json"
    if notes is None:
        path.unlink()
    else:
        path.write_text(json.dumps(notes), encoding="utf-8")
    with pytest.raises(StorageError, match=said) as raised:
        load(folder, finished.home)
    assert raised.value.where == str(path)
    assert raised.value.remedy


# --- what is not what it was ---


@dataclass
class Mine:
    """A version on a base that the test may damage."""

    home: Path
    base: Path
    folder: Path


@pytest.fixture
def mine(own_base: Path, hone_home: Path, run_options: Callable[..., RunConfig], evaluated_here: None) -> Mine:
    result = run(run_options(model=str(own_base), max_steps=2), home=hone_home, recorder=Listener())
    assert load("questions", hone_home).is_tuned
    return Mine(hone_home, own_base, Path(result["run_dir"]))


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("change", [change_weights, change_config])
@pytest.mark.parametrize("by", ["version", "folder"])
def test_a_base_that_has_changed_is_refused(mine: Mine, change: Callable[[Path], None], by: str) -> None:
    change(mine.base)
    with pytest.raises(ModelError, match="is not the base that") as raised:
        load("questions" if by == "version" else mine.folder, mine.home)
    assert "its files have changed" in raised.value.what
    assert raised.value.details[0].count("hash then") == 1


def test_another_model_in_the_bases_place_is_refused(mine: Mine) -> None:
    shutil.rmtree(mine.base)
    save_tiny(mine.base, "qwen2")
    with pytest.raises(ModelError, match="is not the base that"):
        load("questions", mine.home)


def test_a_base_that_is_gone_is_named(mine: Mine) -> None:
    shutil.rmtree(mine.base)
    with pytest.raises(ModelError, match="own-base"):
        load("questions", mine.home)


@pytest.mark.parametrize("by", ["version", "folder"])
def test_a_template_that_has_changed_is_refused(mine: Mine, by: str) -> None:
    changed = CHATML.replace("{% for message", "{{ '<|im_start|>system\nbe brief<|im_end|>\n' }}{% for message", 1)
    assert changed != CHATML
    tiny_tokenizer(changed).save_pretrained(mine.base)
    with pytest.raises(ModelError, match="renders otherwise than when"):
        load("questions" if by == "version" else mine.folder, mine.home)


def test_a_tokenizer_that_has_changed_is_refused(mine: Mine) -> None:
    """Other merges, the same template: every prompt would reach the adapter as other ids than it was trained on."""
    path = mine.base / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:4]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(ModelError, match="has changed since questions was trained"):
        load("questions", mine.home)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "hone.json"])
def test_a_damaged_adapter_is_refused_by_name(mine: Mine, name: str) -> None:
    path = mine.folder / "adapter" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged") as raised:
        load("questions@1", mine.home)
    assert raised.value.details == (f"{path}: differs from what was registered",)


def test_a_missing_adapter_file_is_named(mine: Mine) -> None:
    (mine.folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(StorageError, match="is damaged") as raised:
        load("questions", mine.home)
    assert raised.value.details[0].endswith("missing")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "hone.json", "manifest.json"])
def test_a_damaged_adapter_is_refused_by_its_folder_too(mine: Mine, name: str) -> None:
    """The registry is not asked: the sums beside the adapter tell."""
    path = mine.folder / "adapter" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="the adapter is damaged") as raised:
        load(mine.folder, mine.home)
    assert name in raised.value.details[0]


def test_the_adapter_of_another_architecture_is_refused(mine: Mine, tmp_path: Path) -> None:
    """Its tensors match no layer: it would answer as its base does."""
    path = without_sums(mine.folder / "adapter") / "adapter_model.safetensors"
    tensors = {name.replace("self_attn", "attention"): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not fit this model"):
        load(mine.folder, mine.home)


# --- the renderer and the path of training ---


def test_a_maximum_length_beyond_the_context_is_refused(tiny_base: Path, hone_home: Path) -> None:
    base = load(tiny_base, hone_home).base
    with pytest.raises(ConfigError, match="513 is more than the 512 tokens") as raised:
        make_renderer(base, (), max_length=513, note=lambda text: None)
    assert raised.value.where == "--max-length"
    assert make_renderer(base, (), max_length=512, note=lambda text: None).describe()["max_length"] == 512


def test_a_base_without_a_template_gets_the_documented_one_and_says_so(own_base: Path, hone_home: Path) -> None:
    shutil.rmtree(own_base)
    tiny_model("llama").save_pretrained(own_base)
    tiny_tokenizer(None).save_pretrained(own_base)
    notes: list[str] = []
    found = load(own_base, hone_home, notes)
    assert any("template" in note for note in notes)
    text = found.renderer.prompt_text(QUESTION)
    assert "user" in text
    assert QUESTION[0].content in text


def test_the_path_of_training_follows_the_architecture_and_the_wish() -> None:
    model: PreTrainedModel = tiny_model("llama")
    before = model.config._attn_implementation
    forward, attention = training_path(model)
    assert forward is packed_logprobs
    with attention:
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before
    forward, attention = training_path(model, reference=True)
    assert forward is padded_logprobs
    with attention:
        assert model.config._attn_implementation == before


def test_a_run_without_a_version_answers_by_its_folder(
    train_options: Callable[..., TrainConfig], hone_home: Path, tmp_path: Path
) -> None:
    train(train_options(output=str(tmp_path / "out"), max_steps=2), home=hone_home, recorder=Listener())
    found = load(tmp_path / "out", hone_home)
    assert (found.name, found.version) == ("out", None)
    plain = row_logits(tiny_model("llama", max_position_embeddings=512), list(found.prompt(QUESTION)))
    assert (row_logits(found.base.model, list(found.prompt(QUESTION))) - plain).abs().max() > 1e-4
    assert not (hone_home / "runs").exists()
