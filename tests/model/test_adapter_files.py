"""Adapters on disk: written whole, read strictly. What PEFT makes of them stands in tests/parity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hone.errors import ModelError, StorageError
from hone.model.adapter_files import load_adapter, read_adapter_notes, save_adapter
from hone.model.lora import adapted_layers, adapter_parameters, attach_adapter, find_linear_layers
from tests.tiny import attach_random_adapter, row_logits, tiny_model, without_sums

IDS = list(range(5, 25))
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
ONE_B = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
ONE_A = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tiny_model("llama")
    attach_random_adapter(model)
    save_adapter(model, tmp_path / "adapter", base_name="tiny", notes={"base_hash": "ab", "note": "schön"})
    return tmp_path / "adapter"


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(without_sums(folder) / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _configure(folder: Path, **fields: object) -> None:
    path = without_sums(folder) / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def _refusal(folder: Path) -> ModelError:
    """The refusal to load ``folder``; the model must be as it was."""
    model = tiny_model("llama")
    before = row_logits(model, IDS)
    with pytest.raises(ModelError) as caught:
        load_adapter(model, folder)
    assert not list(adapted_layers(model))
    assert torch.equal(row_logits(model, IDS), before)
    return caught.value


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma3"])
def test_what_was_saved_is_loaded_to_the_bit(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model, rank=3, alpha=7.5)
    save_adapter(model, tmp_path, base_name="tiny", notes={})
    fresh = tiny_model(family)
    names = load_adapter(fresh, tmp_path)
    assert set(names) == set(find_linear_layers(tiny_model(family)))
    mine, theirs = adapter_parameters(model), adapter_parameters(fresh)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(row_logits(fresh, IDS), row_logits(model, IDS))


def test_the_strength_is_saved_as_a_part_of_alpha(tmp_path: Path, saved: Path) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    for _, layer in adapted_layers(model):
        layer.strength = 0.25
    save_adapter(model, tmp_path / "weaker", base_name="tiny", notes={})
    fresh = tiny_model("llama")
    load_adapter(fresh, tmp_path / "weaker")
    torch.testing.assert_close(row_logits(fresh, IDS), row_logits(model, IDS), atol=1e-6, rtol=1e-6)
    full, weaker = (json.loads((one / CONFIG).read_text(encoding="utf-8")) for one in (saved, tmp_path / "weaker"))
    assert (full.pop("lora_alpha"), weaker.pop("lora_alpha")) == (8, 2)
    assert full == weaker
    before, after = load_file(saved / WEIGHTS), load_file(tmp_path / "weaker" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before), "the weights are those that were trained"


def test_the_notes_come_back(saved: Path) -> None:
    assert read_adapter_notes(saved) == {"base_hash": "ab", "note": "schön"}
    assert "schön" in (saved / "hone.json").read_text(encoding="utf-8")
    (without_sums(saved) / "hone.json").unlink()
    assert read_adapter_notes(saved) == {}


@pytest.mark.parametrize(("family", "transposed"), [("llama", False), ("gpt2", True)])
def test_transposed_weights_are_told(tmp_path: Path, family: str, transposed: bool) -> None:
    model = tiny_model(family)
    attach_adapter(model, rank=2, alpha=2.0)
    save_adapter(model, tmp_path, base_name="tiny", notes={})
    assert json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))["fan_in_fan_out"] is transposed


def test_target_modules_are_leaf_names_where_they_select_exactly_the_adapted_layers(tmp_path: Path) -> None:
    def targets(layers: list[str] | None) -> list[str]:
        model = tiny_model("llama")
        attach_adapter(model, rank=2, alpha=2.0, layers=layers)
        save_adapter(model, tmp_path, base_name="tiny", notes={})
        return json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))["target_modules"]

    leaves = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert targets(None) == leaves
    both = [f"model.layers.{block}.self_attn.q_proj" for block in range(2)]
    assert targets(both) == ["q_proj"]
    assert targets(both[:1]) == both[:1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").lora_B[0, 0] = value
    with pytest.raises(ModelError, match="1 of 28") as caught:
        save_adapter(model, tmp_path / "adapter", base_name="tiny", notes={})
    assert caught.value.details == (ONE_B,)
    assert not (tmp_path / "adapter").exists()


def test_a_model_without_an_adapter_has_none_to_save(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        save_adapter(tiny_model("llama"), tmp_path / "adapter", base_name="tiny", notes={})
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_of_another_architecture_matches_nothing_and_is_refused(saved: Path) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ModelError) as caught:
        load_adapter(model, saved)
    assert set(caught.value.details) == {
        f"{name}: the model has no such linear layer" for name in load_file(saved / WEIGHTS)
    }
    assert not list(adapted_layers(model))


def test_an_adapter_without_tensors_is_refused(saved: Path) -> None:
    _rewrite(saved, dict.clear)
    assert "does not fit" in _refusal(saved).what


def test_a_renamed_module_is_named(saved: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in (ONE_A, ONE_B):
            tensors[name.replace("up_proj", "upward_proj")] = tensors.pop(name)

    _rewrite(saved, rename)
    details = _refusal(saved).details
    assert len(details) == 2
    assert all("layers.1.mlp.upward_proj.lora_" in detail and "no such linear layer" in detail for detail in details)


def test_a_missing_tensor_is_named(saved: Path) -> None:
    _rewrite(saved, lambda tensors: tensors.pop(ONE_B))
    assert _refusal(saved).details == (f"{ONE_B}: missing in the adapter",)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(saved: Path) -> None:
    def widen(tensors: dict[str, Tensor]) -> None:
        tensors[ONE_B] = torch.zeros(97, 4)
        tensors[ONE_A] = torch.zeros(5, 64)

    _rewrite(saved, widen)
    assert set(_refusal(saved).details) == {
        f"{ONE_A}: (5, 64) in the adapter, (4, 64) in the model",
        f"{ONE_B}: (97, 4) in the adapter, (96, 4) in the model",
    }


def test_a_value_that_is_not_finite_is_named(saved: Path) -> None:
    _rewrite(saved, lambda tensors: tensors[ONE_B].view(-1)[3].fill_(float("nan")))
    assert _refusal(saved).details == (f"{ONE_B}: not finite",)


def test_several_faults_are_reported_together(saved: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors[ONE_B]
        tensors[ONE_A] = torch.full((4, 64), float("inf"))
        tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)

    _rewrite(saved, spoil)
    error = _refusal(saved)
    assert len(error.details) == 3
    assert "3 tensors" in error.what
    assert {detail.split(": ")[0] for detail in error.details} == {ONE_A, ONE_B, "base_model.model.lm_head.weight"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_dora": True}, "do not match"),  # and there is no tensor of magnitudes
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"bias": "all"}, "bias = all"),
        # these come with changed base weights, or act on a part of the tokens: as plain LoRA they answer wrongly
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_adapters_of_other_kinds_are_refused_by_name(saved: Path, fields: dict[str, object], named: str) -> None:
    _configure(saved, **fields)
    assert named in _refusal(saved).what


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_a_start_that_leaves_the_base_alone_is_no_obstacle(saved: Path, start: object) -> None:
    _configure(saved, init_lora_weights=start)
    assert len(load_adapter(tiny_model("llama"), saved)) == 14


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_file_is_named(saved: Path, name: str, damage: str) -> None:
    path = without_sums(saved) / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    model = tiny_model("llama")
    with pytest.raises(StorageError, match=name) as caught:
        load_adapter(model, saved)
    assert caught.value.where == str(path)
    assert caught.value.what.startswith("is missing" if damage == "missing" else "is damaged")
    assert caught.value.render().count(name) == 1
    assert caught.value.remedy
    assert not list(adapted_layers(model))


@pytest.mark.parametrize("content", ["[]", '"r"', "{}", '{"r": 8}', '{"peft_type": "LORA"}'])
def test_a_config_that_says_nothing_is_refused_as_damaged(saved: Path, content: str) -> None:
    (without_sums(saved) / CONFIG).write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match="is damaged"):
        load_adapter(tiny_model("llama"), saved)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "hone.json", "manifest.json"])
def test_an_adapter_of_our_own_is_held_against_its_sums(saved: Path, name: str) -> None:
    """Every file counts, the notes and the sums included, and whether they are read first or the weights are."""
    path = saved / name
    content = path.read_bytes()
    for place in (len(content) // 3, len(content) - 4):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for load in (read_adapter_notes, lambda folder: load_adapter(tiny_model("llama"), folder)):
            with pytest.raises(StorageError, match="the adapter is damaged") as caught:
                load(saved)
            assert name in caught.value.details[0]
    path.unlink()
    with pytest.raises(StorageError, match="the adapter is damaged"):
        load_adapter(tiny_model("llama"), saved)


def test_what_is_added_to_an_adapters_folder_does_no_harm(saved: Path) -> None:
    (saved / "README.md").write_text("a model card", encoding="utf-8")
    assert len(load_adapter(tiny_model("llama"), saved)) == 14


def test_an_adapter_without_sums_is_loaded_as_one_made_elsewhere(saved: Path) -> None:
    assert len(load_adapter(tiny_model("llama"), without_sums(saved))) == 14


def test_a_failed_write_leaves_the_adapter_before_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = tiny_model("llama")
    attach_random_adapter(model, seed=5)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hone.files.os.replace", no_space)
    with pytest.raises(StorageError, match="No space"):
        save_adapter(model, saved, base_name="tiny", notes={})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
