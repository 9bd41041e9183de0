"""Invariants checked before training, on the user's own model and rows.

Shape legend: T real tokens of a batch, S supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.data.render import Renderer
from hone.data.split import near_copies
from hone.model.fast_layers import fast_layers_paused
from hone.model.forward import Forward, padded_logits, targets_of
from hone.model.lora import adapter_disabled
from hone.proof.invariant import Invariant
from hone.types import Example, TokenSequence

__all__ = ["check_model", "check_rows"]

_SAMPLE_ROWS = 16
_SAMPLE_TOKENS = 256
# Difference of log-probabilities that float32 sums in another order stay under, with room.
_FLOAT32_NATS = 1e-4
# Cosine of gradients, by whether the weights are float32. In bfloat16 both paths round: each lies at 0.99 to 0.995 of
# the float32 gradient of its worst tensor, and 0.986 to 0.995 of each other, as measured on the ready tasks' rows.
_LEAST_COSINE = {True: 0.9999, False: 0.95}
# Standard deviation of B for the comparison of gradients.
_PROBE_SPREAD = 0.01


def check_rows(
    train: Sequence[Example],
    held_out: Sequence[Example],
    sequences: Sequence[TokenSequence],
    renderer: Renderer,
    *,
    bos_id: int | None,
) -> list[Invariant]:
    """Invariants 1, 2 and 8: what is trained on.

    Args:
        train: the rows trained on.
        held_out: the rows set aside.
        sequences: ``train`` rendered.
        renderer: the one that rendered them.
        bos_id: the tokenizer's first token, where it has one.
    """
    unsupervised = sum(sequence.num_supervised == 0 for sequence in sequences)
    open_ended = sum(not _turns_end(sequence, renderer.stop_ids) for sequence in sequences)
    sample = _spread(train)
    by_row: dict[int, list[TokenSequence]] = defaultdict(list)
    for sequence in sequences:
        by_row[sequence.row].append(sequence)
    wrong_prompts = sum(_prompts_differ(example, by_row[example.row], renderer) for example in sample)
    double_bos = 0 if bos_id is None else sum(list(s.ids[:2]).count(bos_id) > 1 for s in sequences)
    copies = near_copies(list(train), list(held_out)) if held_out else []
    every = f"all {len(sequences)} sequences"
    return [
        Invariant(
            1, "every row has supervised tokens, and each supervised turn's end is among them",
            unsupervised + open_ended == 0, unsupervised + open_ended, "0 rows without", every,
            "look at the rows with `hone data show`",
        ),
        Invariant(
            2, "the prompt rendered for generation is a prefix of the row trained on, with one BOS at most",
            wrong_prompts + double_bos == 0, wrong_prompts + double_bos, "0 rows that differ",
            f"{len(sample)} of {len(train)} rows; BOS on all", "the chat template is not consistent; report the model",
        ),
        Invariant(
            8, "no held-out row, nor a near-copy of one, is in the training rows", not copies, len(copies), "0 rows",
            f"{len(train)} training against {len(held_out)} held-out rows", "remove the copies from the training file",
        ),
    ]  # fmt: skip


def _prompts_differ(example: Example, sequences: Sequence[TokenSequence], renderer: Renderer) -> bool:
    """Whether some supervised turn is not trained on right after the prompt that generation would give."""
    for index, message in enumerate(example.messages):
        if not message.supervised:
            continue
        prompt = renderer.prompt(example.messages[:index], example.tools)
        # a turn that was cut for its length has no sequence that reaches it
        reaching = [sequence for sequence in sequences if len(sequence.ids) > len(prompt)]
        if reaching and not any(s.ids[: len(prompt)] == prompt and s.supervised[len(prompt)] for s in reaching):
            return True
    return False


def _turns_end(sequence: TokenSequence, stop_ids: Sequence[int]) -> bool:
    flags = (*sequence.supervised, False)
    return all(sequence.ids[at] in stop_ids for at in range(len(sequence.ids)) if flags[at] and not flags[at + 1])


def _spread(examples: Sequence[Example]) -> list[Example]:
    stride = max(1, len(examples) // _SAMPLE_ROWS)
    return list(examples[::stride])[:_SAMPLE_ROWS]


def check_model(model: PreTrainedModel, sequences: Sequence[TokenSequence], *, forward: Forward) -> list[Invariant]:
    """Invariants 3, 5 and 6: how it is computed, on three short rows.

    Args:
        model: with a fresh adapter attached; as it was, afterwards.
        sequences: the rendered rows.
        forward: the path that training takes.
    """
    sample = [_shortened(sequence) for sequence in sorted(sequences, key=lambda s: len(s.ids))[:3]]
    batch = pack(sample)
    with torch.inference_mode():
        packed_S = forward(model, batch)
        leak = max(_leak(model, batch, row, packed_S, forward) for row in range(len(sample)))
        reference_S, largest_logit = _reference(model, batch)
        with adapter_disabled(model):
            base_gap = _rms(forward(model, batch) - packed_S)
    gap = _rms(reference_S - packed_S)
    cosine, least_cosine = _gradient_cosine(model, batch, forward), _LEAST_COSINE[model.dtype == torch.float32]
    # one unit in the last place of the largest logit: what another order of the same sums may change
    last_place = largest_logit * torch.finfo(model.dtype).eps
    tolerance = max(_FLOAT32_NATS, last_place)
    # a disturbed neighbour changes no shape, and so not even the order of sums
    leak_tolerance = max(_FLOAT32_NATS, last_place / 8)
    checked = f"{len(sample)} rows, {batch.num_supervised} supervised tokens"
    remedy = "train this architecture on the reference path, with --reference-path"
    return [
        Invariant(3, "packed rows do not read each other", leak <= leak_tolerance, leak,
                  f"change of the other rows' log-probabilities (rms) <= {leak_tolerance:.2g}", checked, remedy),
        Invariant(5, "the fast path agrees with the reference path", gap <= tolerance and cosine >= least_cosine, gap,
                  f"difference of log-probabilities (rms) <= {tolerance:.2g}; least cosine of a tensor's gradients "
                  f"{cosine:.4f} >= {least_cosine}", checked, remedy),
        Invariant(6, "with the adapter at initialisation the model equals its base", base_gap == 0.0, base_gap,
                  "difference of log-probabilities = 0", checked,
                  "report the model; its linear layers cannot be wrapped"),
    ]  # fmt: skip


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


def _reference(model: PreTrainedModel, batch: PackedBatch) -> tuple[Tensor, float]:
    """Log-probabilities from the model's own layers and eager attention on right-padded rows; and its largest logit."""
    with _reference_path(model):
        logits_SV = padded_logits(model, batch).float()
    targets_S = targets_of(batch, logits_SV.device).unsqueeze(1)
    return torch.log_softmax(logits_SV, dim=-1).gather(1, targets_S).squeeze(1), float(logits_SV.detach().abs().max())


@contextmanager
def _reference_path(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with fast_layers_paused(model):
            yield
    finally:
        model.set_attn_implementation(before)


def _gradient_cosine(model: PreTrainedModel, batch: PackedBatch, forward: Forward) -> float:
    """The least cosine between a tensor's gradients on both paths; 1 where they point the same way."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: one.detach().clone() for name, one in parameters.items() if name.endswith("lora_B")}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # B is zero at first, and then A would have no gradient to compare
        for name in before:
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=generator) * _PROBE_SPREAD)
    tensors = list(parameters.values())
    # a tensor that a row does not reach, as an expert's, has a gradient of zero
    found = torch.autograd.grad(forward(model, batch).sum(), tensors, materialize_grads=True)
    expected = torch.autograd.grad(_reference(model, batch)[0].sum(), tensors, materialize_grads=True)
    with torch.no_grad():
        for name, start in before.items():
            parameters[name].copy_(start)
    # the gradient of some biases is zero by algebra, as of keys without rotary positions: what is left is rounding
    rounding = 4 * torch.finfo(model.dtype).eps * max(float(one.norm()) for one in expected)
    cosines = [
        nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0)
        for one, other in zip(found, expected, strict=True)
        if (bool(other.any()) or bool(one.any())) and (other.dim() > 1 or float(other.norm()) > rounding)
    ]
    return min((float(cosine) for cosine in cosines), default=1.0)


def _shortened(sequence: TokenSequence) -> TokenSequence:
    if len(sequence.ids) <= _SAMPLE_TOKENS:
        return sequence
    first = sequence.supervised.index(True)
    start = max(0, first - _SAMPLE_TOKENS // 2)
    window = slice(start, start + _SAMPLE_TOKENS)
    return replace(sequence, ids=sequence.ids[window], supervised=sequence.supervised[window])
