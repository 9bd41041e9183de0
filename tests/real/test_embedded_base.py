"""The embedded base: converted once, it answers, and reads text as the original tokenizer does."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open

from hone.errors import ModelError
from hone.model import load as loading
from hone.model.catalog import embedded_gguf
from hone.model.gguf_header import read_gguf_header
from hone.model.load import LoadedModel, load_base
from hone.model.sealed_folder import problems_of_seal

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def loaded(embedded_base: str, real_home: Path) -> LoadedModel:
    return load_base(embedded_base, home=real_home, device="cpu", dtype="float32", note=lambda text: None)


def answer(loaded: LoadedModel, question: str, most_tokens: int) -> list[int]:
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = loaded.model.generate(**prompt, max_new_tokens=most_tokens, do_sample=False)  # type: ignore[operator]
    written: list[int] = ids[0, prompt["input_ids"].shape[1] :].tolist()
    return written


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_knows_the_capital_of_france(dtype: str, embedded_base: str, real_home: Path) -> None:
    loaded = load_base(embedded_base, home=real_home, device="cpu", dtype=dtype, note=lambda text: None)
    ids = answer(loaded, "What is the capital of France?", 20)
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == "The capital of France is Paris."
    assert ids[-1] in loaded.generation_stop_ids, "it stops by itself"


def test_what_it_is(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert (loaded.name, loaded.context_length) == ("smollm2-135m-instruct", 8192)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>", "<|im_end|>", "<|im_end|>",
    )  # fmt: skip
    assert loaded.generation_stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 134_515_008
    assert problems_of_seal(loaded.folder) == []


def test_its_own_list_is_read_back_as_it_was_written(loaded: LoadedModel) -> None:
    """A model writes the tokens that it was trained on; the tokenizer must make the same ones of its text."""
    ids = answer(loaded, "Give three tips for better sleep as a numbered list.", 60)
    text = loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "\n\n1" in text, "white space before a digit is what a wrong splitting rule changes"
    assert loaded.tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_digits_are_tokens_of_their_own(loaded: LoadedModel) -> None:
    tokens = loaded.tokenizer.tokenize("In 2024:\n\n10  11")
    assert tokens == ["In", "Ġ", "2", "0", "2", "4", ":", "ĊĊ", "1", "0", "ĠĠ", "1", "1"]


def test_the_stored_weights_are_the_files_rounded_once(loaded: LoadedModel) -> None:
    reader = gguf.GGUFReader(embedded_gguf())
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    pairs = {
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    with safe_open(loaded.folder / "model.safetensors", framework="pt") as stored:
        for ours, theirs in pairs.items():
            tensor = by_name[theirs]
            expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
            assert torch.equal(stored.get_tensor(ours), expected.to(torch.bfloat16)), ours
    norms = [tensor for tensor in reader.tensors if tensor.tensor_type.name == "F32"]
    assert all(
        torch.equal(values, values.to(torch.bfloat16).float())
        for values in (torch.from_numpy(tensor.data.copy()) for tensor in norms)
    ), "the norms lose nothing in bfloat16"


def test_a_damaged_package_is_found(
    embedded_base: str, real_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flip among the weights leaves a readable GGUF; the package's own record tells that it changed."""
    whole = bytearray(embedded_gguf().read_bytes())
    whole[50_000_000] ^= 1
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(whole)
    read_gguf_header(copy)
    source = loading.resolve_model(embedded_base, home=real_home)
    monkeypatch.setattr(loading, "resolve_model", lambda name, home: type(source)("embedded", source.name, copy))
    with pytest.raises(ModelError, match="is damaged") as raised:
        load_base(embedded_base, home=real_home, device="cpu", note=lambda text: None)
    assert "--force-reinstall --no-deps" in str(raised.value.remedy)
