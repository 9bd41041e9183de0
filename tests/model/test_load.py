"""Loading a base from a folder or the hub's cache: what is loaded, and every way in which a folder can be unfit."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone.errors import ModelError, StorageError
from hone.files import sha256_file
from hone.model import hashing, hub
from hone.model import load as loading
from hone.model.hashing import cached_sha256
from hone.model.load import LoadedModel, load_base

VOCABULARY = ["<end>", "<stop>", *"abcdefgh"]


def save_tokenizer(folder: Path) -> None:
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)


def tiny(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(VOCABULARY), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    model = tiny()
    model.generation_config.eos_token_id = [0, 1]
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(original, tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path | str, home: Path, **options: Any) -> LoadedModel:
    options = {"device": "cpu", "dtype": "float32", "note": lambda text: None, **options}
    return load_base(str(folder), home=home, **options)


def refusal(folder: Path | str, home: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load(folder, home)
    assert raised.value.remedy, "every refusal says what to do"
    return raised.value.render()


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_model_is_whole_frozen_and_ready(original: Path, hone_home: Path) -> None:
    loaded = load(original, hone_home)
    model = loaded.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert (loaded.context_length, loaded.generation_stop_ids) == (128, (0, 1))
    assert (loaded.device, loaded.dtype, loaded.notes) == ("cpu", torch.float32, [])
    assert (loaded.source.kind, loaded.folder) == ("folder", original)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny().eval()(ids).logits)
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer("badge")["input_ids"]) == list("badge")
    assert loaded.tokenizer.pad_token is None, "no token is added"
    assert len(loaded.tokenizer) == len(VOCABULARY)


def test_the_dtype_can_be_forced(original: Path, hone_home: Path) -> None:
    model = load(original, hone_home, dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    rotary: Any = model.get_submodule("model.rotary_emb")
    assert rotary.inv_freq.dtype is torch.float32, "positions need the precision"


def test_sharded_weights_are_the_same_model(original: Path, hone_home: Path, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path, max_shard_size="40KB")
    save_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, parts = load(original, hone_home).model.state_dict(), load(tmp_path, hone_home).model.state_dict()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_base_hash_follows_the_content(folder: Path, original: Path, hone_home: Path) -> None:
    first = load(original, hone_home)
    same = load(folder, hone_home)
    assert (same.base_hash, same.tokenizer_hash) == (first.base_hash, first.tokenizer_hash)
    edit(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=77))
    other_tokenizer = load(folder, hone_home)
    assert other_tokenizer.base_hash == first.base_hash
    assert other_tokenizer.tokenizer_hash != first.tokenizer_hash
    change_weights(folder, lambda tensors: tensors["model.norm.weight"].add_(1e-3))
    assert load(folder, hone_home).base_hash != first.base_hash
    shutil.copy(original / "model.safetensors", folder)
    edit(folder / "config.json", lambda config: config.update(rms_norm_eps=1e-3))
    assert load(folder, hone_home).base_hash != first.base_hash


def test_big_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, home = tmp_path / "big", tmp_path / "home"
    file.write_bytes(b"one" * 1000)
    monkeypatch.setattr(hashing, "_CACHED_FROM_BYTES", 1)
    os.utime(file, ns=(1, 1_700_000_000_000_000_000))
    expected = sha256_file(file)
    assert cached_sha256(file, home=home) == expected
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "sha256_file", lambda path: pytest.fail("read again"))
        assert cached_sha256(file, home=home) == expected
    file.write_bytes(b"two" * 1000)
    os.utime(file, ns=(1, 1_700_000_000_000_000_001))
    assert cached_sha256(file, home=home) == sha256_file(file) != expected
    for entry in (home / "cache" / "sha256").iterdir():
        entry.write_text("{", encoding="utf-8")
    assert cached_sha256(file, home=home) == sha256_file(file)


def test_a_file_still_being_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_CACHED_FROM_BYTES", 1)
    file = tmp_path / "new"
    file.write_bytes(b"now")
    cached_sha256(file, home=tmp_path)
    assert not (tmp_path / "cache").exists()


def test_loading_is_silent(folder: Path, hone_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.extra": torch.ones(1)}))
    notes: list[str] = []
    before = transformers.logging.get_verbosity()
    loaded = load(folder, hone_home, note=notes.append)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert transformers.logging.get_verbosity() == before
    assert loaded.notes == notes
    assert len(notes) == 1
    assert "model.extra" in notes[0], "what was left out is told"


def test_missing_and_misshapen_weights_are_all_listed(folder: Path, hone_home: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.norm.weight"]
        tensors["model.layers.1.self_attn.q_proj.weight"] = torch.zeros(32, 64)

    change_weights(folder, damage)
    text = refusal(folder, hone_home)
    assert "3 weights of LlamaForCausalLM" in text
    assert "model.layers.0.mlp.up_proj.weight is missing" in text
    assert "model.norm.weight is missing" in text
    assert "model.layers.1.self_attn.q_proj.weight has the shape [32, 64] in the file and [64, 64] in the model" in text


def test_an_untied_head_must_be_there(folder: Path, hone_home: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    assert "lm_head.weight is missing" in refusal(folder, hone_home)


def test_damaged_weight_files_are_named(hone_home: Path, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path, max_shard_size="40KB")
    save_tokenizer(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:-10])
    shards[1].unlink()
    shards[2].write_bytes(b"")
    text = refusal(tmp_path, hone_home)
    assert f"3 of {len(shards)} weight files" in text
    assert f"{shards[0].name} is damaged or cut short" in text
    assert f"{shards[1].name} is missing" in text
    assert shards[2].name in text


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_cannot_name_files_elsewhere(name: str, folder: Path, hone_home: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert f"weight_map names {name!r}" in refusal(folder, hone_home)


def test_pickles_are_never_loaded(folder: Path, hone_home: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder, hone_home)
    ran = folder / "ran"
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(ran) + b"'\ntR.")
    text = refusal(folder, hone_home)
    assert "pytorch_model.bin" in text
    assert "save_pretrained" in text, "how to convert"
    assert not ran.exists()


def test_code_in_a_folder_is_never_run(folder: Path, hone_home: Path) -> None:
    ran = folder / "ran"
    for name in ("modeling_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    remote = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    edit(folder / "config.json", lambda config: config.update(auto_map=remote))
    edit(
        folder / "tokenizer_config.json",
        lambda config: config.update(auto_map={"AutoTokenizer": ["tokenization_evil.T", None]}),
    )
    load(folder, hone_home)  # llama is known to transformers, so that the code is not needed
    edit(folder / "config.json", lambda config: config.update(model_type="evil"))
    assert "Python code that comes with the model" in refusal(folder, hone_home)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "evil"}, "'evil' is not known to transformers"),
        ({"model_type": None}, "names no model_type"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "T5ForConditionalGeneration (model_type t5) is not a",
        ),
        (
            {"model_type": "bart", "architectures": ["BartForCausalLM"]},
            "BartForCausalLM (model_type bart) is not a decoder-only",
        ),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "of one text input"),
        ({"model_type": "clip"}, "(model_type clip) is not a decoder-only"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification (model_type llama) is"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "weights are quantised"),
        ({"num_attention_heads": 7}, "cannot load it"),
        ({"num_hidden_layers": "many"}, "cannot load it"),
    ],
)
def test_unsupported_and_damaged_configs_are_refused(
    change: dict[str, Any], said: str, folder: Path, hone_home: Path
) -> None:
    edit(folder / "config.json", lambda config: config.update(change))
    assert said in refusal(folder, hone_home)


def test_an_encoder_is_refused_although_transformers_would_load_it(tmp_path: Path, hone_home: Path) -> None:
    config = BertConfig(vocab_size=10, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert "BertForMaskedLM (model_type bert) is not a decoder-only" in refusal(tmp_path, hone_home)


@pytest.mark.parametrize("value", ["someone/kernel:forward", "flash_attention_2", "paged|someone/kernel"])
@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation", "kernel_config", "use_kernels"])
def test_a_config_cannot_ask_for_code_from_the_hub(key: str, value: str, folder: Path, hone_home: Path) -> None:
    """transformers obeys such a key before its own argument, and runs what it fetches where `kernels` is installed."""
    for name in (key, f"_{key}", f"_{key}_internal"):
        edit(folder / "config.json", lambda config, name=name: config.update({name: value}))
        model = load(folder, hone_home).model
        assert model.config._attn_implementation == "sdpa", name
        with torch.no_grad():
            assert torch.isfinite(model(torch.tensor([[3, 4]])).logits).all()


def test_an_architecture_without_sdpa_falls_back_to_eager(
    original: Path, hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_supports_sdpa", False)
    assert load(original, hone_home).model.config._attn_implementation == "eager"


@pytest.mark.parametrize("content", ["{", "[1]", "", '{"model_type": "llama"', "\ufeff\ufeff{}"])
def test_a_damaged_config_is_named(content: str, folder: Path, hone_home: Path) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    assert "config.json" in refusal(folder, hone_home)


def test_without_a_tokenizer_nothing_is_loaded(folder: Path, hone_home: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refusal(folder, hone_home)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer" in refusal(folder, hone_home)


def test_a_model_bigger_than_the_memory_is_refused(
    original: Path, hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: 1000)
    text = refusal(original, hone_home)
    assert "needs 0.0 GB" in text
    assert "bfloat16 (half of it)" in text


# --- hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def into_cache(cache: Path, original: Path, repository: str) -> Path:
    entry = cache / ("models--" + repository.replace("/", "--"))
    (entry / "refs").mkdir(parents=True)
    commit = "0123456789" * 4
    (entry / "refs" / "main").write_text(commit, encoding="utf-8")
    shutil.copytree(original, entry / "snapshots" / commit)
    return entry / "snapshots" / commit


def test_a_cached_repository_is_loaded_offline(original: Path, cache: Path, hone_home: Path) -> None:
    snapshot = into_cache(cache, original, "org/tiny")
    loaded = load("org/tiny", hone_home)
    assert (loaded.name, loaded.source.kind, loaded.folder) == ("org/tiny", "hub", snapshot)
    assert loaded.base_hash == load(original, hone_home).base_hash


def test_offline_says_that_it_is_offline(original: Path, cache: Path, hone_home: Path) -> None:
    text = refusal("org/absent", hone_home)
    assert "cannot be used offline: it is not in the cache" in text
    assert "HF_HUB_OFFLINE" in text
    (into_cache(cache, original, "org/part") / "model.safetensors").unlink()
    assert "the cached copy lacks weights: model.safetensors" in refusal("org/part", hone_home)


def test_an_adapter_on_the_hub_is_named(original: Path, cache: Path, hone_home: Path) -> None:
    snapshot = into_cache(cache, original, "org/adapter")
    (snapshot / "config.json").rename(snapshot / "adapter_config.json")
    assert "holds an adapter" in refusal("org/adapter", hone_home)


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response_class = HfHubHTTPError.__init__.__annotations__["response"]
    library = __import__(response_class.__module__.split(".")[0])
    request = library.Request("GET", "http://localhost/org/name")
    return kind("said the hub", response=library.Response(status, request=request))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: http_error(GatedRepoError, 403), "is gated"),
        (lambda: http_error(RepositoryNotFoundError, 404), "there is no hub repository org/name"),
        (lambda: http_error(HfHubHTTPError, 500), "cannot be reached"),
        (lambda: LocalEntryNotFoundError("no connection"), "cannot be reached"),
        (lambda: ConnectionResetError("reset"), "cannot be reached"),
    ],
)
def test_troubles_with_the_hub_are_told_apart(
    make: Callable[[], Exception], said: str, hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> str:
        raise make()

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", fail)
    assert said in refusal("org/name", hone_home)


def test_a_full_disk_while_fetching_is_a_storage_error(hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(StorageError, match="No space left"):
        load("org/name", hone_home)


def test_online_a_repository_of_pickles_is_refused(
    original: Path, tmp_path: Path, hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(original, tmp_path / "snapshot", ignore=shutil.ignore_patterns("*.safetensors"))
    asked: list[list[str]] = []

    def fetch(repository: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert "has no safetensors weights" in refusal("org/name", hone_home)
    patterns = [pattern for patterns in asked for pattern in patterns]
    assert not [pattern for pattern in patterns if pattern.endswith((".bin", ".py", ".pt", "*"))]
