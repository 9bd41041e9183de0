"""Invariants checked after training: what was trained moved, survives being saved and merged, and ends its answers.

Shape legend: S supervised tokens of the probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from hone.data.pack import pack
from hone.errors import TrainingError
from hone.files import write_atomically
from hone.model.forward import Forward
from hone.model.lora import adapter_disabled
from hone.proof.invariant import Invariant, listed
from hone.proof.sample import sample_sequences
from hone.types import TokenSequence

__all__ = [
    "check_merged",
    "check_probe",
    "check_stops",
    "check_training",
    "is_of_dtype",
    "probe_sequences",
    "stored_rows_logprobs",
    "write_probe",
]

_PROBE_TOKENS = 512
_MIN_STOP_SHARE = 0.9
# What rounding the merged weights to bfloat16 may cost: this much (rms nats), or this share of the way from the base.
_MERGED_NATS = {True: 1e-3, False: 0.05}
_MERGED_SHARE = {True: 0.01, False: 0.15}


def check_training(
    parts: Mapping[str, tuple[bool, bool]],
    *,
    smallest_gradient_norm: float | None,
    largest_gradient_norm: float | None,
) -> Invariant:
    """Invariant 9: gradients were finite and not zero, and every part that is trained moved and is finite.

    Args:
        parts: (moved, finite) of each; see :meth:`hone.model.adaptation.Adaptation.parts`.
        smallest_gradient_norm: over all steps; None where there was no step.
        largest_gradient_norm: over all steps; None where there was no step.
    """
    bad = [
        f"{name} {'did not move' if finite else 'is not finite'}"
        for name, (moved, finite) in parts.items()
        if not (moved and finite)
    ]
    smallest = smallest_gradient_norm or 0.0
    finite = largest_gradient_norm is not None and math.isfinite(largest_gradient_norm)
    found = listed(bad) if parts else "no layer has an adapter: nothing was trained"
    remedy = "raise --learning-rate if nothing moved; lower it or use --dtype float32 if a value is not finite"
    if largest_gradient_norm == 0:
        remedy = "nothing was there to learn; of rewards, look at rollouts.jsonl whether all answers are worth the same"
    return Invariant(
        9, "gradients were finite and not zero, and the adapter moved in every layer",
        bool(parts) and finite and smallest > 0 and not bad, len(bad),
        f"0 of {len(parts)} layers unmoved or not finite; smallest gradient norm {smallest:.2g} > 0",
        f"{len(parts)} layers",
        remedy, found,
    )  # fmt: skip


def probe_sequences(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """The rows that the probe reads: a short, a middle and the longest, with 512 tokens together at most."""
    return sample_sequences(sequences, max_tokens=_PROBE_TOKENS)


@torch.inference_mode()
def _probe_logprobs(model: PreTrainedModel, sequences: Sequence[TokenSequence], forward: Forward) -> torch.Tensor:
    found_S = forward(model, pack(sequences)).cpu()
    if not bool(torch.isfinite(found_S).all()):
        raise TrainingError(
            "the model's log-probabilities of rows that it was trained on are not finite",
            remedy="train again with a lower --learning-rate or --dtype float32",
        )
    return found_S


def write_probe(
    path: Path | None, model: PreTrainedModel, sequences: Sequence[TokenSequence], *, forward: Forward
) -> None:
    """Store token ids and the log-probabilities of the supervised tokens, as the model in memory gives them.

    Args:
        path: the file; None computes along and writes nothing, as all but the first of several processes do.
        model: with its adapter.
        sequences: the rows to store.
        forward: the path of training.

    Raises:
        TrainingError: some are not finite; nothing is written.
        StorageError: no space or no permission.
    """
    tuned_S = _probe_logprobs(model, sequences, forward)
    with adapter_disabled(model):
        base_S = _probe_logprobs(model, sequences, forward)
    if path is None:
        return
    tensors = {
        "ids": torch.tensor([token for sequence in sequences for token in sequence.ids]),
        "lengths": torch.tensor([len(sequence.ids) for sequence in sequences]),
        "supervised": torch.tensor([flag for sequence in sequences for flag in sequence.supervised]),
        "tuned": tuned_S,
        "base": base_S,
        "value_bytes": torch.tensor([model.dtype.itemsize]),
    }
    write_atomically(path, save(tensors))


def is_of_dtype(path: Path, dtype: torch.dtype) -> bool:
    """Whether a probe was written in ``dtype``: another one gives other numbers, and says nothing of the files.

    Args:
        path: what :func:`write_probe` wrote; one from before the type was stored counts as of the same.
        dtype: of the model now.
    """
    stored = load_file(path).get("value_bytes")
    return stored is None or int(stored) == dtype.itemsize


def stored_rows_logprobs(path: Path, model: PreTrainedModel, *, forward: Forward) -> torch.Tensor:
    """Log-probabilities [S] that ``model`` now gives the supervised tokens of a probe's rows, on the processor.

    Args:
        path: what :func:`write_probe` wrote.
        model: the one to ask.
        forward: the path.

    Raises:
        TrainingError: some are not finite.
    """
    return _probe_logprobs(model, _stored_sequences(load_file(path)), forward)


def check_probe(path: Path, model: PreTrainedModel, *, forward: Forward) -> Invariant:
    """Invariant 10: the adapter as loaded gives the log-probabilities it had in memory, and differs from its base.

    Args:
        path: what :func:`write_probe` wrote.
        model: the base with the adapter loaded from disk.
        forward: the same path as when it was written.

    Raises:
        TrainingError: some log-probability is not finite.
    """
    probe = load_file(path)
    sequences = _stored_sequences(probe)
    found_S = _probe_logprobs(model, sequences, forward)
    gap = float((found_S - probe["tuned"]).abs().max())
    distance = float((found_S - probe["base"]).abs().max())
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return Invariant(
        10, "saved, and reloaded in a fresh process, it gives the log-probabilities it had in memory",
        gap <= tolerance and distance > gap, gap,
        f"largest difference <= {tolerance:g} nats, and under its distance from the base ({distance:.3g})",
        f"{len(found_S)} tokens of {len(sequences)} rows", "the adapter's files are damaged or its base has changed",
    )  # fmt: skip


def check_merged(path: Path, model: PreTrainedModel, *, tuned_S: torch.Tensor, forward: Forward) -> Invariant:
    """Invariant 11: the merged weights give the log-probabilities that the adapter gave.

    Args:
        path: what :func:`write_probe` wrote; its rows are read.
        model: with the adapter merged into its weights (:meth:`hone.model.adaptation.Adaptation.merge`).
        tuned_S: what :func:`stored_rows_logprobs` gave before.
        forward: the same path as then.

    Raises:
        TrainingError: some log-probability is not finite.
    """
    probe = load_file(path)
    sequences = _stored_sequences(probe)
    found_S = _probe_logprobs(model, sequences, forward)
    gap = _rms(found_S - tuned_S)
    distance = _rms(probe["base"] - tuned_S)
    is_float32 = model.dtype == torch.float32
    tolerance = max(_MERGED_NATS[is_float32], _MERGED_SHARE[is_float32] * distance)
    return Invariant(
        11, "merged weights give the adapter's answers", gap <= tolerance, gap,
        f"difference of log-probabilities (rms) <= {tolerance:.2g}; the base's is {distance:.3g}",
        f"{len(found_S)} tokens of {len(sequences)} rows, merged in memory as {_name(model.dtype)}",
        "keep the adapter beside its base, or merge with --dtype float32",
    )  # fmt: skip


def _stored_sequences(probe: Mapping[str, torch.Tensor]) -> list[TokenSequence]:
    sequences = []
    start = 0
    for length in probe["lengths"].tolist():
        window = slice(start, start + length)
        flags = tuple(bool(flag) for flag in probe["supervised"][window].tolist())
        sequences.append(TokenSequence(tuple(probe["ids"][window].tolist()), flags, row=0))
        start += length
    return sequences


def _rms(difference_S: torch.Tensor) -> float:
    return float(difference_S.square().mean().sqrt())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_stops(stopped: Sequence[bool]) -> Invariant:
    """Invariant 12: the share of held-out answers that the model ended by itself."""
    share = sum(stopped) / len(stopped)
    return Invariant(
        12, "the model ends its answers", share >= _MIN_STOP_SHARE, round(share, 4), f">= {_MIN_STOP_SHARE}",
        f"{len(stopped)} held-out answers", "train more epochs, or raise --max-new-tokens if answers are long",
    )  # fmt: skip
