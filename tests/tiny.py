"""Tiny random models of real architectures, a tiny chat tokenizer, and rows of tokens: what the numeric tests share.

    model = tiny_model("gemma2", seed=1)              two layers, width 64, float32, evaluation mode
    tokenizer = tiny_tokenizer()                      byte-level BPE, ChatML template, ids below ``VOCABULARY``
    folder = save_tiny(tmp_path / "base", "qwen2")    both, as a model folder that any loader reads
    rows = token_rows([23, 7, 1, 40])                 ragged rows with ragged masks

Random weights are drawn wider than a fresh model's, so that attention is far from uniform and a wrong mask, scale or
position shows in the logits; biases and norms are not left at 0 and 1 for the same reason.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from hone.model.lora import adapted_layers, attach_adapter
from hone.types import TokenSequence

VOCABULARY = 352
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SLIDING_WINDOW = 8
"""Tokens that a sliding layer sees, itself included: shorter than the rows of most tests."""

_WIDTHS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_WIDTHS, "num_key_value_heads": 2, "head_dim": 16}
_BOTH_KINDS: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": SLIDING_WINDOW,
}

# Family: the model type of transformers, and what makes it tiny. Each has something that the others lack.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "qwen2": ("qwen2", {**_WIDTHS, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**_GROUPED, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            **_GROUPED,
            **_BOTH_KINDS,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": ("gemma3_text", {**_GROUPED, **_BOTH_KINDS, "query_pre_attn_scalar": 24}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": SLIDING_WINDOW}),
    "phi": ("phi", {**_WIDTHS, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {**_WIDTHS, "num_key_value_heads": 2}),
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "bos_token_id": 2,
            "eos_token_id": 2,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            **_GROUPED,
            **_BOTH_KINDS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}
FAMILIES = tuple(_FAMILIES)


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of ``family`` (one of ``FAMILIES``) in float32 and evaluation mode.

    The same arguments give the same weights. ``overrides`` are fields of the config, as ``num_hidden_layers=1``.
    """
    torch.set_num_threads(1)
    model_type, fields = _FAMILIES[family]
    config = CONFIG_MAPPING[model_type](**{**fields, **overrides})
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # norms begin at 1 (or at 0 where the layer adds 1): keep that, and move every entry off it
            centre = 1.0 if bool((parameter == 1).all()) else 0.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(centre + 0.15 * noise)
    return model


@functools.cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["system user assistant", "the lamp is lit and the order is on the way", "what is the answer to this?"]
    tokenizer.train_from_iterator(text * 4, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of fewer than ``VOCABULARY`` ids: 0 pads, 2 is ``<|im_end|>``, which ends every turn."""
    tokenizer = Tokenizer.from_str(_trained_tokenizer())
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = chat_template
    return fast


def save_tiny(folder: Path, family: str = "llama", seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny model with the tiny tokenizer as a model folder, and give the folder back."""
    tiny_model(family, seed, **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def token_rows(lengths: Sequence[int], seed: int = 0) -> list[TokenSequence]:
    """Random rows of the given lengths; about half the tokens of each carry loss, the last one always."""
    draw = random.Random(seed)
    rows = []
    for number, length in enumerate(lengths, start=1):
        ids = tuple(draw.randrange(3, VOCABULARY) for _ in range(length))
        flags = [draw.random() < 0.5 for _ in range(length)]
        flags[-1] = True
        rows.append(TokenSequence(ids, tuple(flags), number))
    return rows


def attach_random_adapter(model: nn.Module, *, rank: int = 4, alpha: float = 8.0, seed: int = 0) -> list[str]:
    """An adapter whose B is not zero, so that it changes the logits and A has gradients too."""
    names = attach_adapter(model, rank=rank, alpha=alpha, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.copy_(0.1 * torch.randn(layer.lora_B.shape, generator=generator))
    return names


def without_sums(adapter: Path) -> Path:
    """An adapter of our own as another tool would have written it: a test that changes it is not told of damage."""
    (adapter / "manifest.json").unlink(missing_ok=True)
    notes = adapter / "hone.json"
    if notes.exists():
        kept = {key: value for key, value in json.loads(notes.read_text(encoding="utf-8")).items() if key != "sealed"}
        notes.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    return adapter


def row_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits [L, V] of one row by itself: no padding, no packing, no cache. The plainest reading of a model."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """A disk that runs out inside the block: writes past ``num_bytes`` fail, whoever writes. Not on Windows."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
