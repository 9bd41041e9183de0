"""Invariants of the computation, before training: packing, accumulation, the fast path, the adapter's start.

Shape legend: T real tokens of a batch, S supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.engine.step import accumulate_gradients
from hone.model.fast_layers import fast_layers_paused
from hone.model.forward import Forward, padded_logits, targets_of
from hone.model.lora import adapter_disabled
from hone.objective.supervised import supervised_loss
from hone.proof.invariant import Invariant
from hone.proof.sample import describe_sample, sample_sequences
from hone.types import TokenSequence

__all__ = ["Accumulate", "check_model"]

Accumulate = Callable[..., float]
"""As :func:`hone.engine.step.accumulate_gradients`."""

# Difference of log-probabilities that float32 sums in another order stay under, with room.
_FLOAT32_NATS = 1e-4
# Standard deviation of B while gradients are compared.
_PROBE_SPREAD = 0.01
_NO_GRADIENT = "no trained tensor has a gradient: nothing would be learned"
_REFERENCE_REMEDY = "train this architecture on the reference path, with --reference-path"


@dataclass(frozen=True, slots=True)
class _Rounding:
    """How far two right computations may lie from each other in a model's type.

    Args:
        eps: one unit in the last place of 1.
        least_cosine: of any tensor's gradients. In bfloat16 both paths round: on the rows of the ready tasks the worst
            tensor's lie at 0.986 to 0.995 of each other, and in one part of translate-en-de at 0.91, a key projection
            whose gradient nearly cancels (0.95 and 0.99 from float32's).
        typical_cosine: of their median, 0.997 there: what is wrong in the computation shows in many tensors.
        gradient_difference: over their norm, on one path with sums in another order.
        routed: tokens are sent to experts, and 16 bits: a rounding may send one to another expert, which is no fault
            and changes its row. What is typical of tokens and tensors is then compared, and not the worst.
    """

    eps: float
    least_cosine: float
    typical_cosine: float
    gradient_difference: float
    routed: bool


def _rounding_of(model: PreTrainedModel) -> _Rounding:
    eps = torch.finfo(model.dtype).eps
    if model.dtype == torch.float32:
        return _Rounding(eps, 0.9999, 0.9999, 1e-3, routed=False)
    shape = model.config.get_text_config()
    experts = [getattr(shape, name, None) or 0 for name in ("num_local_experts", "num_experts", "n_routed_experts")]
    if max(experts) > 1:
        return _Rounding(eps, 0.0, 0.95, 0.05, routed=True)
    return _Rounding(eps, 0.8, 0.98, 0.05, routed=False)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Loss in nats a token, log-probabilities, and each trained tensor's gradient, of one way to compute a step."""

    loss: float
    logprobs_S: Tensor
    gradients: dict[str, Tensor]


def check_model(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    parameters: Mapping[str, nn.Parameter],
    forward: Forward,
    accumulate: Accumulate = accumulate_gradients,
) -> list[Invariant]:
    """Invariants 3 to 6: how it is computed, on a short, a middle and the longest row.

    Args:
        model: with a fresh adapter attached; as it was, afterwards.
        sequences: the rendered rows. Where none carries loss there is nothing to compute, and no invariant.
        parameters: the trained tensors by name; see :meth:`hone.model.adaptation.Adaptation.parameters`.
        forward: the path that training takes.
        accumulate: how training adds up the gradients of a step.
    """
    sample = sample_sequences(sequences)
    if not sample:
        return []
    batch = pack(sample)
    checked = describe_sample(sample, sequences)
    with torch.inference_mode():
        start_S = forward(model, batch)
        leaks = [_leak(model, batch, row, start_S, forward) for row in range(len(sample))]
        with adapter_disabled(model):
            base_gap = _rms(forward(model, batch) - start_S)
    reference = _Reference()
    alone = [pack([row]) for row in sample]
    with _drawn_start(model, parameters):
        once = _step(model, [batch], parameters, forward, accumulate)
        # row by row: no padding to the longest one, and no more memory than that one takes
        plain = _step(model, alone, parameters, reference, accumulate_gradients)
        parts = _step(model, alone, parameters, forward, accumulate)
    # one unit in the last place of the largest logit: what another order of the same sums may change
    rounding = _rounding_of(model)
    last_place = reference.largest_logit * rounding.eps
    tolerance = max(_FLOAT32_NATS, last_place)
    # a disturbed neighbour changes no shape, and so not even the order of sums
    return [
        _packing(leaks, sample, max(_FLOAT32_NATS, last_place / 8), checked),
        _accumulation(once, parts, tolerance, checked, rounding),
        _agreement(once, plain, tolerance, checked, rounding),
        Invariant(6, "with the adapter at initialisation the model equals its base", base_gap == 0.0, base_gap,
                  "difference of log-probabilities = 0", checked,
                  "report the model; its linear layers cannot be wrapped"),
    ]  # fmt: skip


def _packing(leaks: Sequence[float], sample: Sequence[TokenSequence], tolerance: float, checked: str) -> Invariant:
    worst = max(leaks, key=_not_finite_first)
    holds = worst <= tolerance
    moving = [f"changing row {row.row} moves the others by {leak:.2g}" for row, leak in zip(sample, leaks, strict=True)]
    return Invariant(
        3, "packed rows do not read each other", holds, worst,
        f"change of the other rows' log-probabilities (rms) <= {tolerance:.2g}", checked, _REFERENCE_REMEDY,
        "" if holds else moving[leaks.index(worst)],
    )  # fmt: skip


def _accumulation(once: _Pass, parts: _Pass, tolerance: float, checked: str, rounding: _Rounding) -> Invariant:
    norms = {name: float(whole.norm()) for name, whole in once.gradients.items()}
    gaps = {name: float((parts.gradients[name] - whole).norm()) for name, whole in once.gradients.items()}
    norm = math.hypot(*norms.values())
    if not norm:
        difference = math.inf
    elif rounding.routed:
        difference = statistics.median(gaps[name] / norms[name] for name in gaps if norms[name])
    else:
        difference = math.hypot(*gaps.values()) / norm
    loss_gap = abs(once.loss - parts.loss)
    holds = difference <= rounding.gradient_difference and loss_gap <= tolerance
    worst = max(gaps, key=lambda name: _not_finite_first(gaps[name]), default="")
    whose = "a typical tensor's gradient" if rounding.routed else "all gradients"
    return Invariant(
        4, "one batch of k rows equals k accumulated batches of one", holds, difference,
        f"difference of {whose} over the norm <= {rounding.gradient_difference:g}; of the losses {loss_gap:.2g} <= "
        f"{tolerance:.2g}", checked, "report the model, and until then give --batch-size 1",
        "" if holds else f"largest in {worst}" if norm else _NO_GRADIENT,
    )  # fmt: skip


def _agreement(once: _Pass, plain: _Pass, tolerance: float, checked: str, rounding: _Rounding) -> Invariant:
    gaps_S = plain.logprobs_S - once.logprobs_S
    gap = float(gaps_S.abs().median()) if rounding.routed else _rms(gaps_S)
    cosines = _cosines(once.gradients, plain.gradients, eps=rounding.eps)
    worst = min(cosines, key=lambda name: -_not_finite_first(-cosines[name]), default=None)
    least = cosines[worst] if worst else 0.0
    typical = statistics.median(cosines.values()) if worst else 0.0
    agree = typical >= rounding.typical_cosine and (rounding.routed or least >= rounding.least_cosine)
    holds = gap <= tolerance and agree
    if holds:
        found = ""
    elif worst is None:
        found = _NO_GRADIENT
    else:
        found = "the log-probabilities differ" if agree else f"least cosine in {worst}"
    kind = "median" if rounding.routed else "rms"
    bounds = [f"median {typical:.4f} >= {rounding.typical_cosine}"]
    bounds += [] if rounding.routed else [f"least {least:.4f} >= {rounding.least_cosine}"]
    return Invariant(
        5, "the fast path agrees with the reference path", holds, gap,
        f"difference of log-probabilities ({kind}) <= {tolerance:.2g}; cosine of a tensor's gradients: "
        f"{', '.join(bounds)}", checked, _REFERENCE_REMEDY, found,
    )  # fmt: skip


def _not_finite_first(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _leak(model: PreTrainedModel, batch: PackedBatch, row: int, packed_S: Tensor, forward: Forward) -> float:
    """How far the other rows move when the tokens that ``row`` has for itself are others."""
    size = model.config.get_text_config().vocab_size
    own = batch.segments[batch.leaves[row]]
    changed = range(own.start, own.start + own.length)
    ids = tuple((token + 1) % size if index in changed else token for index, token in enumerate(batch.ids_T))
    others_S = torch.tensor([batch.leaves[owner] != batch.leaves[row] for owner in batch.owners_S], dtype=torch.bool)
    moved_S = forward(model, replace(batch, ids_T=ids))
    return _rms((moved_S - packed_S)[others_S.to(packed_S.device)])


def _rms(difference_S: Tensor) -> float:
    return float(difference_S.square().mean().sqrt()) if difference_S.numel() else 0.0


class _Reference:
    """A forward pass of the model's own layers and eager attention, a row at a time; keeps the largest logit."""

    def __init__(self) -> None:
        self.largest_logit = 0.0

    def __call__(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        """Log-probabilities [S] of the supervised tokens."""
        with _reference_path(model):
            logits_SV = padded_logits(model, batch).float()
        self.largest_logit = max(self.largest_logit, float(logits_SV.detach().abs().max()))
        targets_S = targets_of(batch, logits_SV.device).unsqueeze(1)
        return torch.log_softmax(logits_SV, dim=-1).gather(1, targets_S).squeeze(1)


@contextmanager
def _reference_path(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with fast_layers_paused(model):
            yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _drawn_start(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """B drawn at random inside the block, because A has no gradient while B is zero; no gradients are left behind."""
    before = {name: one.detach().clone() for name, one in parameters.items() if name.endswith("lora_B")}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in before:
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=generator) * _PROBE_SPREAD)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, start in before.items():
                parameters[name].copy_(start)
        model.zero_grad(set_to_none=True)


def _step(
    model: PreTrainedModel,
    batches: Sequence[PackedBatch],
    parameters: Mapping[str, nn.Parameter],
    forward: Forward,
    accumulate: Accumulate,
) -> _Pass:
    """One step of training without its update."""
    heard: list[Tensor] = []

    def listening(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        heard.append(forward(model, batch))
        return heard[-1]

    for parameter in parameters.values():
        parameter.grad = None
    loss = accumulate(model, batches, forward=listening, objective=supervised_loss)
    # a tensor that no row reaches, as an expert's, has a gradient of zero
    gradients = {name: torch.zeros_like(one) if one.grad is None else one.grad for name, one in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return _Pass(loss, torch.cat([one.detach() for one in heard]), gradients)


def _cosines(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, eps: float) -> dict[str, float]:
    """The cosine between each tensor's gradients on both paths, where there is one: 1 where they point the same way."""
    # the gradient of some biases is zero by algebra, as of keys without rotary positions: what is left is rounding
    rounding = 4 * eps * max((float(one.norm()) for one in expected.values()), default=0.0)
    cosines = {}
    for name, other in expected.items():
        one = found[name]
        if (bool(other.any()) or bool(one.any())) and (other.dim() > 1 or float(other.norm()) > rounding):
            cosine = nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0)
            cosines[name] = float(cosine)
    return cosines
