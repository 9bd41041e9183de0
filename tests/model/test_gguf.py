"""GGUF conversion on a tiny llama written with the gguf package: complete, exact, verified, redone when damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hone.errors import HoneError, MissingDependencyError, ModelError, StorageError
from hone.model import gguf as conversion
from hone.model.gguf import conversion_identity, converted_folder
from hone.model.gguf_header import read_gguf_header
from hone.model.gguf_rope import llama3_factors
from hone.model.load import load_base
from hone.model.sealed_folder import problems_of_seal

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "t h", "th e", "Ġ the", "Ġ Ġ"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = SPECIALS + list(bytes_to_unicode().values()) + [merge.replace(" ", "") for merge in MERGES]
HEADS, KEY_VALUE_HEADS, LAYERS, WIDTH = 4, 2, 2, 64


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_VALUE_HEADS, max_position_embeddings=512,
        rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, head_dim=WIDTH // HEADS,
        initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The row order in which llama.cpp keeps query and key weights (rotary pairs side by side)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    names = {
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    for layer in range(LAYERS):
        theirs, ours = f"model.layers.{layer}.", f"blk.{layer}."
        tensors |= {f"{ours}{a}.weight": weights[f"{theirs}{b}.weight"] for a, b in names.items()}
        for letter, heads in (("q", HEADS), ("k", KEY_VALUE_HEADS)):
            weight = weights[f"{theirs}self_attn.{letter}_proj.weight"]
            tensors[f"{ours}attn_{letter}.weight"] = np.ascontiguousarray(interleaved(weight, heads))
    return tensors


def write_gguf(path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    """A GGUF of architecture llama; ``changes``: quantise, pre, architecture, extra (key -> uint32 or text)."""
    architecture = changes.get("architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(128)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for key, value in changes.get("extra", {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    kind = changes.get("quantise")
    for name, tensor in tensors.items():
        if kind is not None and tensor.ndim > 1:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="module")
def plain(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf", gguf_tensors(model))


@pytest.fixture(scope="module")
def converted(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion to be copied, not changed."""
    return converted_folder(plain, home=tmp_path_factory.mktemp("home"), note=lambda text: None)


@pytest.fixture
def notes() -> list[str]:
    return []


def test_logits_equal_those_of_the_model_that_was_written(converted: Path, model: LlamaForCausalLM) -> None:
    read = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    ids = torch.arange(40).view(2, 20) + 3
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_the_config_holds_no_trace_of_the_packed_form(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 512
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_quantised_weights_are_dequantised_exactly_then_rounded_once(
    kind: Any, model: LlamaForCausalLM, tmp_path: Path, notes: list[str]
) -> None:
    tensors = gguf_tensors(model)
    path = write_gguf(tmp_path / f"tiny.{kind.name}.gguf", tensors, quantise=kind)
    folder = converted_folder(path, home=tmp_path, note=notes.append)
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    # the reference is the gguf package's own dequantisation, in numpy
    for ours, theirs in (
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
    ):
        expected = gguf.dequantize(gguf.quantize(tensors[theirs], kind), kind)
        assert torch.equal(stored[ours], torch.from_numpy(expected).to(torch.bfloat16)), ours


def test_the_tokenizer_keeps_special_tokens_and_template(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == tuple(SPECIALS[i] for i in (1, 2, 2))
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 512
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert tokenizer.decode(ids) == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"


def test_digits_are_split_off_before_the_white_space_rule(converted: Path) -> None:
    """A vocabulary of the smollm family reads two line ends before a digit as one token, as the model writes them."""
    tokenizer = AutoTokenizer.from_pretrained(converted)
    newline, two_newlines, two_spaces = (TOKENS.index(token) for token in ("Ċ", "ĊĊ", "ĠĠ"))
    assert tokenizer("\n\n12", add_special_tokens=False)["input_ids"] == [
        two_newlines, TOKENS.index("1"), TOKENS.index("2"),
    ]  # fmt: skip
    assert tokenizer("  7", add_special_tokens=False)["input_ids"][0] == two_spaces
    # before a letter GPT-2's rule keeps the last white space apart
    assert tokenizer("\n\na", add_special_tokens=False)["input_ids"][:2] == [newline, newline]


def test_gpt2s_own_rule_is_left_alone(model: LlamaForCausalLM, tmp_path: Path, notes: list[str]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(model), pre="gpt-2")
    tokenizer = AutoTokenizer.from_pretrained(converted_folder(path, home=tmp_path, note=notes.append))
    assert tokenizer("\n\n1", add_special_tokens=False)["input_ids"][0] == TOKENS.index("Ċ")
    assert not [text for text in notes if "splits text" in text]


def test_an_unknown_rule_is_told_each_time(model: LlamaForCausalLM, tmp_path: Path, notes: list[str]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(model), pre="tomorrow")
    for _ in range(2):
        notes.clear()
        converted_folder(path, home=tmp_path, note=notes.append)
        assert any("'tomorrow'" in text and "GPT-2" in text for text in notes)


def test_all_tokens_that_end_an_answer_are_kept(model: LlamaForCausalLM, tmp_path: Path, notes: list[str]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(model), extra={"tokenizer.ggml.eot_token_id": 0})
    folder = converted_folder(path, home=tmp_path, note=notes.append)
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [2, 0]


def test_the_second_call_converts_nothing(plain: Path, tmp_path: Path, notes: list[str]) -> None:
    first = converted_folder(plain, home=tmp_path, note=notes.append)
    assert len(notes) == 1
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert converted_folder(plain, home=tmp_path, note=notes.append) == first
    assert len(notes) == 1
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in first.parent.iterdir() if not path.name.startswith(".")] == [first.name]


def test_another_files_bytes_give_another_folder(plain: Path, converted: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / plain.name, gguf_tensors(tiny_llama(seed=1)))
    assert converted_folder(other, home=tmp_path, note=lambda text: None).name != converted.name


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "add", "manifest"])
def test_a_damaged_copy_is_found_told_and_redone(
    damage: str, plain: Path, converted: Path, tmp_path: Path, notes: list[str]
) -> None:
    folder = tmp_path / "models" / converted.name
    shutil.copytree(converted, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])
    elif damage == "shorten":
        weights.write_bytes(whole[:-1])
    elif damage == "remove":
        (folder / "tokenizer.json").unlink()
    elif damage == "add":
        (folder / "model-00001-of-00002.safetensors").write_bytes(whole)
    else:
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
    assert converted_folder(plain, home=tmp_path, note=notes.append) == folder
    assert "damaged" in notes[0]
    assert problems_of_seal(folder) == []
    assert load_file(weights).keys() == load_file(converted / "model.safetensors").keys()


def test_every_single_bit_flip_is_detected(converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(converted, folder)
    chance = random.Random(20260101)
    files = sorted(folder.iterdir())
    for _ in range(200):
        path = chance.choice(files)
        whole = path.read_bytes()
        at = chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert problems_of_seal(folder), f"{path.name}, byte {at}"
        path.write_bytes(whole)
    assert problems_of_seal(folder) == []


def test_every_bit_of_the_manifest_counts(converted: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "copy" / "manifest.json"
    shutil.copytree(converted, manifest.parent)
    whole = manifest.read_bytes()
    for at in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        manifest.write_bytes(flipped)
        assert problems_of_seal(manifest.parent), f"byte {at}"


def test_two_processes_at_once_share_one_conversion(plain: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hone.model.gguf import converted_folder\n"
        "print(converted_folder(Path(sys.argv[1]), home=Path(sys.argv[2]), note=lambda text: print('note')))"
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(conversion.__file__).parents[2]))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(plain), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    lines = [text.split() for text, _ in outputs]
    assert lines[0][-1] == lines[1][-1]
    assert sum(words.count("note") for words in lines) == 1
    assert problems_of_seal(Path(lines[0][-1])) == []


def test_conversion_is_silent_and_leaves_the_verbosity_alone(
    plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.logging.set_verbosity_info()
    bars = transformers.logging.is_progress_bar_enabled()
    try:
        converted_folder(plain, home=tmp_path, note=lambda text: None)
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled() is bars
    finally:
        transformers.logging.set_verbosity_warning()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_full_disk_is_refused_with_both_figures(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=12_345))
    with pytest.raises(StorageError) as raised:
        converted_folder(plain, home=tmp_path, note=lambda text: None)
    num_weights = sum(tensor.num_values for tensor in read_gguf_header(plain).tensors)
    assert f"({num_weights * 4 + 64_000_000} bytes) needed" in raised.value.what
    assert "(12345 bytes) free" in raised.value.what


def test_a_file_too_big_to_convert_is_refused_before_it_is_read(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "available_memory_bytes", lambda: 100_000)
    monkeypatch.setattr(conversion, "_read_gguf", lambda path, header: pytest.fail("was read"))
    with pytest.raises(ModelError, match="GB of memory to be converted"):
        converted_folder(plain, home=tmp_path, note=lambda text: None)


def test_packages_that_are_missing_or_would_fetch_code(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"accelerate": True, "gguf": True, "kernels": True}
    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda name: object() if here.get(name) else None)
    monkeypatch.delenv("USE_HUB_KERNELS", raising=False)
    with pytest.raises(ModelError, match="fetch compiled code") as refused:
        converted_folder(plain, home=tmp_path, note=lambda text: None)
    assert "USE_HUB_KERNELS=NO" in str(refused.value.remedy)
    here["accelerate"] = False
    with pytest.raises(MissingDependencyError) as missing:
        converted_folder(plain, home=tmp_path, note=lambda text: None)
    assert missing.value.remedy == "pip install accelerate"


def test_a_killed_conversion_leaves_nothing_for_long(plain: Path, tmp_path: Path) -> None:
    abandoned = tmp_path / "models" / ".tiny.F32-0123456789abcdef.0123456789ab.tmp"
    abandoned.mkdir(parents=True)
    (abandoned / "model.safetensors").write_bytes(b"half")
    folder = converted_folder(plain, home=tmp_path, note=lambda text: None)
    assert not abandoned.exists()
    assert problems_of_seal(folder) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "save_pretrained", fail)
        with pytest.raises(StorageError, match="No space left"):
            converted_folder(plain, home=tmp_path, note=lambda text: None)
    assert not [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"]
    assert problems_of_seal(converted_folder(plain, home=tmp_path, note=lambda text: None)) == []


def test_llama3_scaling_comes_back_from_its_factors(model: LlamaForCausalLM, tmp_path: Path, notes: list[str]) -> None:
    factors = np.array(llama3_factors(WIDTH // HEADS, 10_000.0, 8.0), dtype=np.float32)
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(model) | {"rope_freqs.weight": factors})
    config = AutoModelForCausalLM.from_pretrained(converted_folder(path, home=tmp_path, note=notes.append)).config
    assert config.rope_parameters["rope_type"] == "llama3"
    assert config.rope_parameters["factor"] == 8.0


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=8, head_dim=64, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain_frequencies = 500_000.0 ** -(torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    expected = plain_frequencies / scaled.double()
    torch.testing.assert_close(torch.tensor(llama3_factors(64, 500_000.0, 32.0)).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("changes", "extra_tensor", "message"),
    [
        ({"extra": {"split.count": 3}}, False, "one of 3 parts"),
        ({"extra": {"general.type": "adapter"}}, False, "holds a adapter"),
        ({"architecture": "bert"}, False, "not a decoder-only"),
        ({"architecture": "unheard-of"}, False, "unheard-of"),
        ({"extra": {"llama.rope.scaling.type": "yarn"}}, False, "rotary positions (yarn)"),
        ({}, True, "not complete"),
    ],
)
def test_what_cannot_become_a_base_is_refused(
    changes: dict[str, Any], extra_tensor: bool, message: str, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    tensors = gguf_tensors(model)
    if extra_tensor:
        tensors["blk.0.attn_surprise.weight"] = np.ones((64, 64), dtype=np.float32)
    path = write_gguf(tmp_path / "odd.gguf", tensors, **changes)
    with pytest.raises(ModelError) as raised:
        converted_folder(path, home=tmp_path, note=lambda text: None)
    assert message in raised.value.render()
    assert "Traceback" not in raised.value.render()


def test_missing_and_non_finite_weights_are_refused(model: LlamaForCausalLM, tmp_path: Path) -> None:
    tensors = gguf_tensors(model)
    without = {name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"}
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        converted_folder(write_gguf(tmp_path / "a.gguf", without), home=tmp_path, note=lambda text: None)
    broken = tensors["blk.0.ffn_up.weight"].copy()
    broken[3, 5] = np.inf
    path = write_gguf(tmp_path / "b.gguf", tensors | {"blk.0.ffn_up.weight": broken})
    with pytest.raises(ModelError, match="not finite"):
        converted_folder(path, home=tmp_path, note=lambda text: None)


def test_damaged_files_end_in_one_message(plain: Path, tmp_path: Path) -> None:
    """Cut or flipped anywhere in its header, a file is either refused as damaged or still consistent; never a crash."""
    whole = plain.read_bytes()
    header_bytes = min(tensor.start for tensor in read_gguf_header(plain).tensors)
    path = tmp_path / "damaged.gguf"
    chance = random.Random(7)
    for length in [0, 3, 4, 20, header_bytes // 2, header_bytes, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as raised:
            read_gguf_header(path)
        assert raised.value.where == str(path)
    refused = 0
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[chance.randrange(header_bytes)] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            read_gguf_header(path)
        except HoneError:
            refused += 1
    assert refused > 20  # most of a header is token text, in which a flip leaves a readable file


def test_a_huge_count_is_not_believed(plain: Path, tmp_path: Path) -> None:
    whole = bytearray(plain.read_bytes())
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    whole[at + 5] = 0x7F  # the count of a list of integers, now beyond 2 ** 40
    path = tmp_path / "huge.gguf"
    path.write_bytes(whole)
    with pytest.raises(ModelError, match="are left"):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"), (b"PK\x03\x04" * 30, "not a GGUF")],
)
def test_other_files_are_named_for_what_they_are(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_gguf_header(path)


def test_a_gguf_loads_as_a_base_with_the_identity_of_its_conversion(plain: Path, hone_home: Path) -> None:
    notes: list[str] = []
    loaded = load_base(str(plain), home=hone_home, device="cpu", dtype="float32", note=notes.append)
    assert loaded.base_hash == conversion_identity(hashlib.sha256(plain.read_bytes()).hexdigest())
    assert loaded.folder.name == f"tiny.F32-{loaded.base_hash[:16]}"
    assert (loaded.source.kind, loaded.context_length, loaded.generation_stop_ids) == ("gguf", 512, (2,))
    assert loaded.notes == notes
    assert len(notes) == 1


def test_the_header_is_that_of_the_gguf_package(plain: Path) -> None:
    reference = gguf.GGUFReader(plain)
    ours = read_gguf_header(plain)
    assert [(t.name, t.type_name, t.num_values, t.start, t.num_bytes) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, int(t.n_elements), int(t.data_offset), int(t.n_bytes)) for t in reference.tensors
    ]
    assert ours.text("tokenizer.ggml.pre") == "smollm"
    assert ours.metadata["tokenizer.ggml.tokens"] == len(TOKENS)
