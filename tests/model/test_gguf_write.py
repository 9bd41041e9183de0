"""GGUF files that hone writes: transformers reads the same weights back, hone the same tokens; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import PreTrainedModel

from hone.errors import ModelError, StorageError
from hone.model.gguf_load import load_gguf_weights
from hone.model.gguf_vocabulary import read_vocabulary
from hone.model.gguf_write import GGUF_MODEL_TYPES, GGUF_WEIGHTS, GgufWeights, write_gguf
from hone.model.load import load_base
from tests.tiny import CHATML, FAMILIES, no_file_larger_than, row_logits, tiny_model, tiny_tokenizer

IDS = list(range(5, 45))
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def write(model: PreTrainedModel, path: Path, weights: GgufWeights = "f16") -> list[str]:
    embeddings: Any = model.get_input_embeddings()
    vocabulary = read_vocabulary(tiny_tokenizer(), num_rows=len(embeddings.weight), chat_template=CHATML, stop_ids=[2])
    return write_gguf(model, vocabulary, path, weights=weights, name="tiny@1")


def unslid(family: str, **more: Any) -> PreTrainedModel:
    """A tiny model of a family that can be written and read: without sliding layers, with the heads of all Qwen3."""
    own = {"mistral": {"sliding_window": None}, "qwen3": {"head_dim": 128}}  # transformers takes Qwen3's for granted
    return tiny_model(family, **own.get(family, {}), **more)


@pytest.mark.parametrize("family", sorted(GGUF_MODEL_TYPES))
def test_transformers_reads_the_same_weights_back(family: str, tmp_path: Path) -> None:
    """To the last bit, once both sides are rounded to float16: so names, orders and the rotary halves are right."""
    model = unslid(family)
    write(model, tmp_path / "model.gguf")
    read, info = load_gguf_weights(tmp_path / "model.gguf")
    assert not info["missing_keys"]
    found = dict(read.named_parameters())
    expected = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        rounded = parameter.half().float() if parameter.dim() > 1 else parameter
        assert torch.equal(found[name], rounded), name
    torch.testing.assert_close(row_logits(read, IDS), row_logits(model, IDS), atol=2e-2, rtol=1e-3)
    assert read.config.model_type == ("llama" if family == "mistral" else family)


def test_without_reordering_the_answers_would_be_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hone.model.gguf_write._neighbours", lambda rows, heads: rows)
    model = tiny_model("llama")
    write(model, tmp_path / "model.gguf")
    read, _ = load_gguf_weights(tmp_path / "model.gguf")
    assert (row_logits(read, IDS) - row_logits(model, IDS)).abs().max() > 0.1


@pytest.mark.parametrize(("weights", "worst"), [("q8_0", 0.01), ("q4_1", 0.12), ("q4_0", 0.15)])
def test_quantised_weights_are_near_the_models(weights: GgufWeights, worst: float, tmp_path: Path) -> None:
    model = tiny_model("llama")
    assert write(model, tmp_path / "model.gguf", weights) == []
    read, _ = load_gguf_weights(tmp_path / "model.gguf")
    found = dict(read.named_parameters())
    for name, parameter in model.named_parameters():
        error = (found[name] - parameter).norm() / parameter.norm()
        bound = (
            0.0 if parameter.dim() < 2 else 0.01 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else worst
        )
        assert error <= bound, name
    kinds = {
        tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors
    }
    assert kinds["blk.1.ffn_down.weight"] == weights
    assert kinds["token_embd.weight"] == "q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "f32"


def test_rows_that_no_block_divides_stay_float16(tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=80)
    kept = write(model, tmp_path / "model.gguf", "q8_0")
    assert kept == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    read, _ = load_gguf_weights(tmp_path / "model.gguf")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(read.get_parameter(name), model.get_parameter(name).half().float())


def test_tokens_template_and_stop_tokens_are_in_the_metadata(tmp_path: Path, hone_home: Path) -> None:
    write(tiny_model("llama"), tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == CHATML
    assert fields["tokenizer.ggml.tokens"][350] == "[PAD350]"
    assert fields["tokenizer.ggml.token_type"][350] == gguf.TokenType.UNUSED
    assert fields["tokenizer.ggml.token_type"][2] == gguf.TokenType.CONTROL
    assert fields["llama.context_length"] == 256
    loaded = load_base(str(tmp_path / "model.gguf"), home=hone_home, device="cpu", dtype="float32", note=lambda _: None)
    text = "<|im_start|>user\nwhat is 2024,\n\n10  the naïve 猫?<|im_end|>\n"
    assert loaded.tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert loaded.tokenizer.chat_template == CHATML
    assert loaded.generation_stop_ids == (2,)


def test_llama_3s_positions_travel(tmp_path: Path, hone_home: Path) -> None:
    model = tiny_model("llama", rope_parameters=LLAMA3, max_position_embeddings=4096)
    write(model, tmp_path / "model.gguf")
    loaded = load_base(str(tmp_path / "model.gguf"), home=hone_home, device="cpu", dtype="float32", note=lambda _: None)
    found: Any = loaded.model.config
    assert {key: found.rope_parameters[key] for key in LLAMA3} == LLAMA3
    far = [5 + number % 300 for number in range(1500)]
    torch.testing.assert_close(row_logits(loaded.model, far), row_logits(model, far), atol=3e-2, rtol=1e-3)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(GGUF_MODEL_TYPES)))
def test_other_architectures_are_refused_with_what_can_be_written(family: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="llama, mistral, qwen2, qwen3"):
        write(tiny_model(family), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("mistral", {}, "slides over 8 tokens"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu"),
        ("llama", {"mlp_bias": True}, "biases"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type is linear",
        ),
        ("llama", {"rope_parameters": {**LLAMA3, "low_freq_factor": 2.0}}, "published one"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        write(tiny_model(family, **settings), tmp_path / "model.gguf")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_float16_cannot_hold_are_refused_by_name(value: float, tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 4] = value
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight"):
        write(model, tmp_path / "model.gguf")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with no_file_larger_than(50_000), pytest.raises(StorageError, match=r"model\.gguf"):
        write(tiny_model("llama"), tmp_path / "model.gguf")


def test_every_kind_has_its_bound_in_the_proof() -> None:
    from hone.proof.exported import EXPORT_BOUNDS

    assert set(GGUF_WEIGHTS) < set(EXPORT_BOUNDS)
