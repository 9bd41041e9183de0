"""The output head and the log-probabilities of the supervised tokens, without a tensor of all logits.

Rows are scored in chunks that fit the processor's cache. Where the head is frozen, the gradient for the hidden states
is made in the forward pass, from the same probabilities, and one [S, D] tensor is kept in place of [S, V]. Where the
head is trained, the chunks are computed again in the backward pass. The idea is that of Liger Kernel's fused linear
cross-entropy (Hsu et al. 2024, arXiv:2410.10989); returning log-probabilities and not a loss lets every objective use
it. Divergences from a base with the same frozen head, and from a teacher with another one, are made in the same way.

Shape legend: S supervised tokens, D width of the model, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = [
    "OutputHead",
    "find_frozen_head",
    "find_output_head",
    "reverse_divergences",
    "token_divergences",
    "token_logprobs",
]

# Logits of one chunk: 2^23 values are 16 MB in bfloat16 and 32 MB in float32. Fewer rows waste the matrix product's
# packing of the head; more leave the cache.
_CHUNK_VALUES = 1 << 23
_LOGITS_CLOSE = 1e-3


@dataclass(frozen=True, slots=True)
class OutputHead:
    """How hidden states become logits: ``softcap * tanh(scale * (W h + b) / softcap)``.

    Args:
        layer: the linear layer W, b.
        scale: factor on its output (Cohere's ``logit_scale``, one over Granite's ``logits_scaling``); 1 for most.
        softcap: bound of the logits (Gemma 2); None for none.
    """

    layer: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """All logits [S, V] of a few rows."""
        logits_SV: Tensor = self.layer(hidden_SD) * self.scale
        return logits_SV if self.softcap is None else self.softcap * torch.tanh(logits_SV / self.softcap)


_heads: weakref.WeakKeyDictionary[PreTrainedModel, OutputHead | None] = weakref.WeakKeyDictionary()


def find_output_head(model: PreTrainedModel) -> OutputHead | None:
    """The head of ``model``, checked against the model's own logits on a few tokens; remembered for the model.

    Returns:
        None where no known form gives the model's logits; its supervised logits are then computed by the model itself.
    """
    if model not in _heads:
        _heads[model] = _checked_head(model)
    return _heads[model]


@torch.no_grad()
def find_frozen_head(model: PreTrainedModel) -> OutputHead | None:
    """The head as :func:`find_output_head` gives it, unless it is trained."""
    head = find_output_head(model)
    trained = head is not None and any(parameter.requires_grad for parameter in head.layer.parameters())
    return None if trained else head


def _checked_head(model: PreTrainedModel) -> OutputHead | None:
    layer: Any = model.get_output_embeddings()
    decoder: Any = model.get_decoder()
    if type(layer) is not nn.Linear or decoder is None or decoder is model:
        return None
    config: Any = model.config.get_text_config()
    head = OutputHead(
        layer,
        scale=float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    ids = torch.arange(4, device=model.device).unsqueeze(0) % config.vocab_size
    expected_SV = model(input_ids=ids, use_cache=False).logits[0].float()
    found_SV = head.logits(decoder(input_ids=ids, use_cache=False).last_hidden_state[0]).float()
    close = (found_SV - expected_SV).abs().max() <= _tolerance(model.dtype) * expected_SV.abs().max()
    return head if bool(close) else None


def _tolerance(dtype: torch.dtype) -> float:
    return max(_LOGITS_CLOSE, 2 * torch.finfo(dtype).eps)


def token_logprobs(hidden_SD: Tensor, head: OutputHead, targets_S: Tensor) -> Tensor:
    """Log-probabilities of ``targets_S``, in nats; float32, differentiable.

    Args:
        hidden_SD: the hidden states that predict them, in the head's dtype.
        head: see :func:`find_output_head`.
        targets_S: token ids.

    Returns:
        [S], float32. Logits are rounded to the head's dtype, as the model itself does, and reduced in float32.
    """
    logprobs_S: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_SD, head.layer.weight, head.layer.bias, targets_S, head.scale, head.softcap
    )
    return logprobs_S


def token_divergences(hidden_SD: Tensor, base_SD: Tensor, head: OutputHead) -> Tensor:
    """KL(base || model) over the vocabulary at each place, in nats; float32, differentiable by the hidden states.

    Args:
        hidden_SD: the model's hidden states, in the head's dtype.
        base_SD: the base's at the same places.
        head: frozen, so it is the base's too.

    Returns:
        [S], float32. Its derivative by the logits is softmax(model) - softmax(base).
    """
    divergences_S: Tensor = _TokenDivergences.apply(  # type: ignore[no-untyped-call]
        hidden_SD, base_SD, head.layer.weight, head.layer.bias, head.scale, head.softcap
    )
    return divergences_S


def reverse_divergences(hidden_SD: Tensor, head: OutputHead, theirs_SE: Tensor, their_head: OutputHead) -> Tensor:
    """KL(model || teacher) over the vocabulary at each place, in nats; float32, differentiable by the hidden states.

    Args:
        hidden_SD: the model's hidden states, in its head's dtype.
        head: the model's, frozen.
        theirs_SE: the teacher's hidden states at the same places; its width E may be another.
        their_head: the teacher's. Where one vocabulary is longer, what only one of them has is left out: models of one
            family are padded to different sizes.

    Returns:
        [S], float32. Its derivative by the logits is ``p (log p - log q - KL)``, p of the model and q of the teacher.
    """
    size = min(head.layer.weight.shape[0], their_head.layer.weight.shape[0])
    divergences_S: Tensor = _ReverseDivergences.apply(  # type: ignore[no-untyped-call]
        hidden_SD, _Scores.of(head, size), theirs_SE, _Scores.of(their_head, size)
    )
    return divergences_S


@dataclass(frozen=True, slots=True)
class _Scores:
    """A head as the chunks take it: ``weight_VD``, ``bias_V``, ``scale``, ``softcap``."""

    weight_VD: Tensor
    bias_V: Tensor | None
    scale: float
    softcap: float | None

    @classmethod
    def of(cls, head: OutputHead, size: int) -> _Scores:
        bias_V: Tensor | None = head.layer.bias
        return cls(head.layer.weight[:size], None if bias_V is None else bias_V[:size], head.scale, head.softcap)

    def log_softmax(self, hidden_CD: Tensor) -> tuple[Tensor, Tensor | None]:
        return _log_softmax(hidden_CD, self.weight_VD, self.bias_V, self.scale, self.softcap)


class _TokenLogprobs(torch.autograd.Function):
    """Chunked head and log-softmax; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_S: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        ctx.scale, ctx.softcap = scale, softcap
        ctx.recompute = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keep = ctx.needs_input_grad[0] and not ctx.recompute
        logprobs_S = torch.empty(hidden_SD.shape[0], dtype=torch.float32, device=hidden_SD.device)
        errors_SD = torch.empty_like(hidden_SD) if keep else None
        for rows in _chunks(hidden_SD.shape[0], weight_VD.shape[0]):
            part_S, error_CV = _score(hidden_SD[rows], weight_VD, bias_V, targets_S[rows], scale, softcap, keep)
            logprobs_S[rows] = part_S
            if errors_SD is not None and error_CV is not None:
                torch.mm(error_CV, weight_VD, out=errors_SD[rows])
        if ctx.recompute:
            ctx.save_for_backward(hidden_SD, weight_VD, bias_V, targets_S)
        else:
            ctx.save_for_backward(errors_SD)
        return logprobs_S

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.recompute:
            (errors_SD,) = ctx.saved_tensors
            return errors_SD * -grad_S.unsqueeze(1).to(errors_SD.dtype), None, None, None, None, None
        hidden_SD, weight_VD, bias_V, targets_S = ctx.saved_tensors
        grad_hidden_SD = torch.empty_like(hidden_SD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for rows in _chunks(hidden_SD.shape[0], weight_VD.shape[0]):
            _, error_CV = _score(hidden_SD[rows], weight_VD, bias_V, targets_S[rows], ctx.scale, ctx.softcap, True)
            assert error_CV is not None
            error_CV *= -grad_S[rows].unsqueeze(1).to(error_CV.dtype)
            torch.mm(error_CV, weight_VD, out=grad_hidden_SD[rows])
            grad_weight_VD += error_CV.t() @ hidden_SD[rows]
            if grad_bias_V is not None:
                grad_bias_V += error_CV.sum(0, dtype=torch.float32)
        grad_bias = None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_SD, grad_weight_VD.to(weight_VD.dtype), grad_bias, None, None, None


class _TokenDivergences(torch.autograd.Function):
    """Chunked head and divergence, with the gradient made in the forward pass; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        base_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        divergences_S = torch.empty(hidden_SD.shape[0], dtype=torch.float32, device=hidden_SD.device)
        errors_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        for rows in _chunks(hidden_SD.shape[0], weight_VD.shape[0]):
            base_CV, _ = _log_softmax(base_SD[rows], weight_VD, bias_V, scale, softcap)
            logs_CV, bounded_CV = _log_softmax(hidden_SD[rows], weight_VD, bias_V, scale, softcap)
            probabilities_CV = base_CV.exp()
            divergences_S[rows] = base_CV.sub_(logs_CV).mul_(probabilities_CV).sum(dim=-1)
            if errors_SD is not None:
                error_CV = logs_CV.exp_().sub_(probabilities_CV)
                torch.mm(_before_head(error_CV, bounded_CV, scale).to(hidden_SD.dtype), weight_VD, out=errors_SD[rows])
        ctx.save_for_backward(errors_SD)
        return divergences_S

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor) -> tuple[Tensor | None, ...]:
        (errors_SD,) = ctx.saved_tensors
        return errors_SD * grad_S.unsqueeze(1).to(errors_SD.dtype), None, None, None, None, None


class _ReverseDivergences(torch.autograd.Function):
    """Chunked heads and divergence, with the gradient made in the forward pass; see the module."""

    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, ours: _Scores, theirs_SE: Tensor, theirs: _Scores) -> Tensor:
        divergences_S = torch.empty(hidden_SD.shape[0], dtype=torch.float32, device=hidden_SD.device)
        errors_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        for rows in _chunks(hidden_SD.shape[0], ours.weight_VD.shape[0]):
            their_logs_CV, _ = theirs.log_softmax(theirs_SE[rows])
            logs_CV, bounded_CV = ours.log_softmax(hidden_SD[rows])
            probabilities_CV = logs_CV.exp()
            gaps_CV = logs_CV.sub_(their_logs_CV)
            divergences_C = (gaps_CV * probabilities_CV).sum(dim=-1)
            divergences_S[rows] = divergences_C
            if errors_SD is not None:
                error_CV = gaps_CV.sub_(divergences_C.unsqueeze(1)).mul_(probabilities_CV)
                before_CV = _before_head(error_CV, bounded_CV, ours.scale).to(hidden_SD.dtype)
                torch.mm(before_CV, ours.weight_VD, out=errors_SD[rows])
        ctx.save_for_backward(errors_SD)
        return divergences_S

    @staticmethod
    def backward(ctx: Any, grad_S: Tensor) -> tuple[Tensor | None, ...]:
        (errors_SD,) = ctx.saved_tensors
        return errors_SD * grad_S.unsqueeze(1).to(errors_SD.dtype), None, None, None


def _chunks(size: int, vocabulary: int) -> list[slice]:
    # equal chunks: a last one of a few rows would pay the product's whole packing of the head
    count = max(1, -(-size * vocabulary // _CHUNK_VALUES))
    rows = max(1, -(-size // count))
    return [slice(start, min(start + rows, size)) for start in range(0, size, rows)]


def _score(
    hidden_CD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_C: Tensor,
    scale: float,
    softcap: float | None,
    with_error: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a chunk's targets; and minus their derivative by the output of the linear layer."""
    logs_CV, bounded_CV = _log_softmax(hidden_CD, weight_VD, bias_V, scale, softcap)
    columns = targets_C.unsqueeze(1)
    logprobs_C = logs_CV.gather(1, columns).squeeze(1)
    if not with_error:
        return logprobs_C, None
    error_CV = logs_CV.exp_()
    error_CV.scatter_add_(1, columns, torch.full_like(columns, -1, dtype=torch.float32))
    return logprobs_C, _before_head(error_CV, bounded_CV, scale).to(hidden_CD.dtype)


def _log_softmax(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [C, V] of a chunk, float32; and the tanh of a capped head."""
    logits_CV = nn.functional.linear(hidden_CD, weight_VD, bias_V)
    if scale != 1.0:
        logits_CV = logits_CV * scale
    bounded_CV = None
    if softcap is not None:
        bounded_CV = torch.tanh(logits_CV / softcap)
        logits_CV = bounded_CV * softcap
    return torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32), bounded_CV


def _before_head(error_CV: Tensor, bounded_CV: Tensor | None, scale: float) -> Tensor:
    """From the derivative by the logits, in place, to that by the output of the linear layer."""
    if bounded_CV is not None:
        error_CV *= 1 - bounded_CV.float().square_()
    if scale != 1.0:
        error_CV *= scale
    return error_CV
