"""Log-probabilities of answers under the base: computed once before training, and kept by content.

The base is the model with its adapter switched off, on the path that training takes; so nothing else differs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import transformers

from hone.data.pack import PackedBatch
from hone.errors import StorageError
from hone.evaluation.likelihood import answer_bits
from hone.files import write_json
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.model.lora import adapter_disabled
from hone.types import TokenSequence

__all__ = ["answer_logprobs", "reference_logprobs"]

_FORM = 2


def reference_logprobs(
    base: LoadedModel,
    sequences: Sequence[TokenSequence],
    *,
    forward: Forward,
    home: Path,
    max_tokens: int,
    label: str,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """The base's log-probability of each answer, in nats; read from ``home`` where it was computed before.

    Args:
        base: with an adapter that can be switched off, inside the block of ``forward``.
        sequences: prompt and answer; the answer's tokens are supervised.
        forward: the path that training takes.
        home: hone's home folder; the figures are kept in ``cache/references``, under a hash of all they follow from.
        max_tokens: tokens computed at once.
        label: what else they follow from, as the kind of 4-bit weights.
        on_done: called with the number of answers done.
    """
    key = _key(base, sequences, forward, f"{label}/{max_tokens}")
    path = home / "cache" / "references" / f"{key}.json"
    known = _read(path, len(sequences))
    if known is not None:
        return known
    with adapter_disabled(base.model):
        found = answer_logprobs(base.model, sequences, forward=forward, max_tokens=max_tokens, on_done=on_done)
    # they are at hand: without room to keep them, the next run computes them again
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"form": _FORM, "base": base.name, "logprobs": found, "sha256": _sum(found)})
    return found


def answer_logprobs(
    model: torch.nn.Module,
    sequences: Sequence[TokenSequence],
    *,
    forward: Forward,
    max_tokens: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """The model's log-probability of each answer, in nats, prompts that answers share computed once."""
    bits = answer_bits(model, sequences, forward=forward, max_tokens=max_tokens, on_done=on_done)  # type: ignore[arg-type]
    return [-one * math.log(2) for one in bits]


def _key(base: LoadedModel, sequences: Sequence[TokenSequence], forward: Callable[..., object], label: str) -> str:
    facts = [_FORM, base.base_hash, base.tokenizer_hash, str(base.dtype), base.device, _name(forward), label,
             torch.__version__, transformers.__version__]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode())
    for sequence in sequences:
        digest.update(f"{sequence.ids}{[int(flag) for flag in sequence.supervised]}\n".encode())
    return digest.hexdigest()


def _name(forward: Callable[[torch.nn.Module, PackedBatch], object] | Callable[..., object]) -> str:
    return str(getattr(forward, "__name__", type(forward).__name__))


def _read(path: Path, count: int) -> list[float] | None:
    """What is kept there; None where there is nothing that can be used, so that it is computed anew."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    logprobs = value.get("logprobs") if isinstance(value, dict) and value.get("form") == _FORM else None
    if not isinstance(logprobs, list) or len(logprobs) != count or not all(isinstance(one, float) for one in logprobs):
        return None
    return logprobs if value.get("sha256") == _sum(logprobs) else None


def _sum(logprobs: Sequence[float]) -> str:
    return hashlib.sha256(json.dumps(list(logprobs), ensure_ascii=False).encode()).hexdigest()
