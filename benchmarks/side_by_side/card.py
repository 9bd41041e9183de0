"""What benchmarks/gpu.py runs on a card: random weights of known shapes, one system's steps, parity with the oracle.

torch, transformers, peft and the part of hone that trains are imported, and nothing that a plain CUDA image lacks.

Shape legend: T tokens, S supervised tokens.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from hone.data.pack import pack, plan_micro_batches
from hone.model.attention import attention_in_words, packed_attention_enabled
from hone.model.fast_layers import fast_layers_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.lora import adapted_layers, adapter_parameters, attach_adapter, detach_adapter
from hone.model.recompute import recompute_enabled
from hone.objective.supervised import supervised_loss
from hone.types import TokenSequence

RANK, ALPHA, LEARNING_RATE = 16, 32.0, 1e-4
_ROPE = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
_LLAMA: dict[str, Any] = {"vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5}
# meta-llama/Llama-3.1-8B and Llama-3.2-1B, as their config.json has them; and a shape for a test on a processor.
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {**_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "rope_parameters": _ROPE},
    "1b": {**_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
           "rope_parameters": {**_ROPE, "factor": 32.0}},
    "tiny": {"vocab_size": 352, "max_position_embeddings": 512, "hidden_size": 64, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
# Small models for the parity with the oracle; heads of 64 values, as the kernels want them.
_SMALL: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
_BOTH_KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
GATED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _SMALL),
    "qwen3": ("qwen3", {**_SMALL, "tie_word_embeddings": True}),
    "mistral": ("mistral", {**_SMALL, "sliding_window": 16}),
    "gemma2": ("gemma2", {**_SMALL, **_BOTH_KINDS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "gemma3": ("gemma3_text", {**_SMALL, **_BOTH_KINDS}),
}


@dataclass(frozen=True)
class Load:
    """What is trained: one shape, and rows that every system sees alike.

    Args:
        shape: of ``SHAPES``.
        shortest: tokens of the shortest row.
        longest: tokens of the longest.
        rows_per_step: rows of one optimizer step.
        supervised: share of a row that carries loss, at its end.
        micro_tokens: of one forward pass; padding counts for who pads.
        warmup: steps that are not timed.
        timed: steps that are.
    """

    shape: str
    shortest: int
    longest: int
    rows_per_step: int
    supervised: float
    micro_tokens: int
    warmup: int
    timed: int

    def rows(self, step: int) -> list[TokenSequence]:
        """The rows of a step, from 0; random tokens, so that nothing is shared."""
        draw, rows = random.Random(f"card-{step}"), []
        for number in range(self.rows_per_step):
            length = draw.randint(self.shortest, self.longest)
            free = max(1, round(length * (1 - self.supervised)))
            ids = tuple(draw.randrange(3, SHAPES[self.shape]["vocab_size"]) for _ in range(length))
            rows.append(TokenSequence(ids, (False,) * free + (True,) * (length - free), number + 1))
        return rows


def random_model(
    model_type: str, fields: dict[str, Any], device: str, dtype: torch.dtype, attention: str = "sdpa"
) -> PreTrainedModel:
    """A model of random weights, alike for every system on one device."""
    config = CONFIG_MAPPING[model_type](**fields)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.eval().requires_grad_(False)
    return model


def attach_probe(model: PreTrainedModel) -> None:
    """An adapter whose B is small and not zero, so that A has gradients as well."""
    attach_adapter(model, rank=RANK, alpha=ALPHA, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.copy_(0.01 * torch.randn(layer.lora_B.shape, generator=generator))


# --- parity ---


def gate(device: str, attentions: list[str], families: list[str]) -> list[dict[str, Any]]:
    """Loss and gradients of the fast path on ``device`` beside the float32 eager oracle on the same device."""
    draw = random.Random(5)
    ragged = [TokenSequence(tuple(draw.randrange(3, 512) for _ in range(length)), (False,) + (True,) * (length - 1), 1)
              for length in (70, 33, 9, 120, 2, 64)]  # fmt: skip
    prefix = ragged[3].ids[:40]
    shared = [TokenSequence(prefix + row.ids, (False,) * 40 + row.supervised, 1) for row in ragged]
    found = []
    for name in families:
        model_type, fields = GATED[name]
        for batch_name, rows in (("ragged", ragged), ("shared", [*shared, ragged[1]])):
            oracle = _loss_and_gradient(model_type, fields, rows, device, torch.float32, None)
            for dtype in (torch.float32, torch.bfloat16):
                for attention in attentions:
                    ours = _loss_and_gradient(model_type, fields, rows, device, dtype, attention)
                    cosine = float(nn.functional.cosine_similarity(ours[1], oracle[1], dim=0))
                    exact = dtype is torch.float32
                    least, most = (0.9999, 1e-5) if exact else (0.99, 0.02)
                    off = abs(ours[0] - oracle[0]) / abs(oracle[0])
                    found.append({
                        "family": name, "rows": batch_name, "dtype": str(dtype).removeprefix("torch."),
                        "attention": attention, "kernel": ours[2], "cosine": cosine, "loss_off": off,
                        "passed": bool(cosine >= least and off <= most),
                    })  # fmt: skip
    return found


def _loss_and_gradient(
    model_type: str, fields: dict[str, Any], rows: list[TokenSequence], device: str, dtype: torch.dtype,
    attention: str | None,
) -> tuple[float, Tensor, str]:  # fmt: skip
    """Loss, all gradients as one tensor in float64, and how was attended; ``attention`` None is the oracle."""
    model = random_model(model_type, fields, device, torch.float32, "eager")  # Gemma 2 has no other
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # wider than a fresh model's, so that a wrong mask, scale or position shows
        for parameter in model.parameters():
            centre = 1.0 if bool((parameter == 1).all()) else 0.0
            parameter.copy_(centre + 0.08 * torch.randn(parameter.shape, generator=generator))
        for parameter in model.parameters():  # and not the buffers: angles of rotary embeddings stay in float32
            parameter.data = parameter.data.to(dtype)
    attach_probe(model)
    batch, words = pack(rows), "eager"
    if attention is None:
        model.set_attn_implementation("eager")
        loss = -padded_logprobs(model, batch).mean()
        loss.backward()
    else:
        varlen = attention == "varlen"
        with fast_layers_enabled(model), packed_attention_enabled(model, varlen=varlen):
            words = attention_in_words(model, varlen=varlen)
            loss = -packed_logprobs(model, batch).mean()
            loss.backward()
    gradients = [parameter.grad.flatten().double().cpu() for parameter in adapter_parameters(model).values()]
    return loss.item(), torch.cat(gradients), words


# --- speed ---


def run(system: str, load: Load, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train ``system`` on ``load`` and give its figures; an ``out_of_memory`` where it did not fit."""
    try:
        return _run(system, load, device, settings)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}


def _run(system: str, load: Load, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    dtype = torch.bfloat16
    model = random_model("llama", SHAPES[load.shape], device, dtype)
    attach_probe(model)
    facts = _facts(model, load)
    flags: dict[str, Any] = {"micro_tokens": load.micro_tokens, **settings}
    with ExitStack() as block:
        if system.startswith("hone"):
            varlen = system == "hone/varlen"
            parameters = list(adapter_parameters(model).values())
            layers = block.enter_context(fast_layers_enabled(model))
            block.enter_context(packed_attention_enabled(model, varlen=varlen))
            flags |= {"layers": layers.describe(), "attention": attention_in_words(model, varlen=varlen)}
            block.enter_context(recompute_enabled(model, settings["recompute_layers"]))
            step = _hone_step(model, load)
        else:
            theirs = _peft_like(model)
            if settings["recompute_layers"]:
                theirs.gradient_checkpointing_enable({"use_reentrant": False})
                theirs.train()
            parameters = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
            flags |= {"adapter": str(parameters[0].dtype), "autocast": True, "attention": "transformers' SDPA"}
            step = _plain_step(theirs, load, device)
        return {**_timed(step, parameters, load, device), "flags": flags, "facts": facts}


def _timed(step: Any, parameters: list[nn.Parameter], load: Load, device: str) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device.startswith("cuda"))
    ends, losses, tokens, gradients = [], [], 0, None
    batches = [load.rows(number) for number in range(load.warmup + load.timed)]
    for number, rows in enumerate(batches):
        if number == load.warmup:
            tokens = 0
        optimizer.zero_grad(set_to_none=True)
        losses.append(step(rows))
        if gradients is None:
            gradients = _sketch(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        tokens += sum(len(row.ids) for row in rows)
    seconds = ends[-1] - ends[load.warmup - 1]
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    return {"tokens_per_second": tokens / seconds, "losses": losses, "peak_bytes": peak, "sketch": gradients}


def _sketch(parameters: list[nn.Parameter]) -> list[float]:
    """Norm of every gradient, in the order of the model's layers, A before B: two systems that agree have the same."""
    return [float(parameter.grad.float().norm()) for parameter in parameters if parameter.grad is not None]


def _hone_step(model: PreTrainedModel, load: Load) -> Any:
    def step(rows: list[TokenSequence]) -> float:
        plan = plan_micro_batches(rows, max_tokens=load.micro_tokens)
        batches = [pack([rows[index] for index in indices]) for indices in plan]
        supervised, total = sum(batch.num_supervised for batch in batches), 0.0
        for batch in batches:
            loss = supervised_loss(packed_logprobs(model, batch))[0] / supervised
            loss.backward()
            total += loss.item()
        return total

    return step


def _plain_step(theirs: nn.Module, load: Load, device: str) -> Any:
    """Rows of a step sorted by length, padded micro-batches, bfloat16 autocast over bfloat16 weights."""

    def step(rows: list[TokenSequence]) -> float:
        ordered = sorted(rows, key=lambda row: -len(row.ids))
        supervised, total = sum(sum(row.supervised[1:]) for row in rows), 0.0
        while ordered:
            count = max(1, min(len(ordered), load.micro_tokens // len(ordered[0].ids)))
            batch, ordered = _padded(ordered[:count], device), ordered[count:]
            with torch.autocast(device.split(":")[0], torch.bfloat16):
                loss = theirs(**batch, num_items_in_batch=supervised, use_cache=False).loss
            loss.backward()
            total += loss.item()
        return total

    return step


def _padded(rows: list[TokenSequence], device: str) -> dict[str, Tensor]:
    longest = max(len(row.ids) for row in rows)
    named: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        padding = longest - len(row.ids)
        labels = [token if flag else -100 for token, flag in zip(row.ids, row.supervised, strict=True)]
        named["input_ids"].append([*row.ids, *[0] * padding])
        named["attention_mask"].append([1] * len(row.ids) + [0] * padding)
        named["labels"].append([*labels, *[-100] * padding])
    return {name: torch.tensor(values, device=device) for name, values in named.items()}


def _peft_like(model: PreTrainedModel) -> nn.Module:
    """PEFT on the same base, from hone's A and B."""
    from peft import LoraConfig, get_peft_model

    start = {name: (layer.lora_A.detach(), layer.lora_B.detach()) for name, layer in adapted_layers(model)}
    detach_adapter(model, merge=False)
    config = LoraConfig(r=RANK, lora_alpha=round(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = get_peft_model(model, config)
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, halves in start.items():
            for half, tensor in zip("AB", halves, strict=True):
                named[f"base_model.model.{name}.lora_{half}.default.weight"].copy_(tensor)
    return theirs


def _facts(model: PreTrainedModel, load: Load) -> dict[str, float]:
    """What ``roofline.flops_per_token`` asks for."""
    config, head = model.config, model.get_output_embeddings().weight.numel()
    adapter = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    lengths = [len(row.ids) for step in range(load.warmup, load.warmup + load.timed) for row in load.rows(step)]
    dense = sum(layer.base.weight.numel() for _, layer in adapted_layers(model))
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or 0)
    return {
        "attention_width": width or config.hidden_size, "layers": config.num_hidden_layers, "matmul_parameters": dense,
        "head_parameters": head, "adapter_parameters": adapter, "supervised_share": load.supervised,
        "mean_context": sum(length * (length + 1) / 2 for length in lengths) / sum(lengths),
    }  # fmt: skip
