"""Training on what people prefer: DPO, IPO, KTO, ORPO and SimPO as methods of the one loop (``sft.py``).

The reference is the base: its log-probabilities of all answers are computed once before training, with the adapter
switched off, and kept by content (``references.py``). The answers of a row share their prompt's computation.

Shape legend: S supervised tokens of a batch, B answers, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hone.config.schema import TrainConfig
from hone.data.answers import AnswerBatch, AnswerSet, pack_answers, pair_sets, single_sets
from hone.engine.step import Objective, mean_loss
from hone.errors import DataError
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.model.lora import adapter_disabled
from hone.objective.preference import Answers, answer_sums, dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from hone.proof.invariant import Invariant
from hone.recipe.method import Method
from hone.recipe.references import answer_logprobs, reference_logprobs
from hone.recipe.rows import PreparedRows
from hone.types import Example, MethodName, Preference, TokenSequence

__all__ = [
    "WITH_REFERENCE",
    "PreferenceOptions",
    "answer_sets",
    "preference_loss",
    "preference_method",
    "preference_objective",
    "resolve_options",
]

WITH_REFERENCE = ("dpo", "ipo", "kto")
"""Methods whose reward is the log-probability against the base's; that of the others is the model's own, a token."""

# The papers' own: Rafailov et al. 2023, Azar et al. 2023, Ethayarajh et al. 2024, Hong et al. 2024, Meng et al. 2024.
_BETA: Mapping[str, float] = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}
_SIMPO_MARGIN_OF_BETA = 0.5
_CHECKED_SETS = 8
# Difference of the first loss from the base's: float32 sums in another order; in 16 bits each answer's log-probability
# is off by tenths of a nat, which beta makes hundredths.
_FLOAT32_LOSS, _ROUNDED_LOSS = 1e-4, 0.02


@dataclass(frozen=True, slots=True)
class PreferenceOptions:
    """The numbers of a preference method, resolved.

    Args:
        method: which.
        beta: see the objectives.
        label_smoothing: assumed share of wrong labels.
        length_normalised: rewards are taken a token.
        target_margin: SimPO's gamma; 0 for the others.
        desirable_weight: KTO's weight of liked answers.
        undesirable_weight: of those that are not.
    """

    method: MethodName
    beta: float
    label_smoothing: float
    length_normalised: bool
    target_margin: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def resolve_options(config: TrainConfig, method: MethodName, sets: Sequence[AnswerSet]) -> PreferenceOptions:
    """What the user left open, from the method's paper; KTO's weights so that both kinds of answers count alike.

    Args:
        config: the options.
        method: one of this module's.
        sets: trained on.
    """
    beta = config.beta or _BETA[method]
    margin = config.target_margin
    if margin is None:
        margin = _SIMPO_MARGIN_OF_BETA * beta if method == "simpo" else 0.0
    liked = sum(one.liked is True for one in sets)
    others = len(sets) - liked
    desirable = undesirable = 1.0
    if method == "kto" and liked and others:
        # equation 8 of the paper: the ratio of weighted counts between 1 and 4/3
        desirable, undesirable = max(1.0, others / liked), max(1.0, liked / others)
    normalised = method in ("ipo", "simpo", "orpo") if config.length_normalised is None else config.length_normalised
    return PreferenceOptions(method, beta, config.label_smoothing, normalised, margin, desirable, undesirable)


def answer_sets(rows: PreparedRows, examples: Sequence[Example], method: MethodName) -> list[AnswerSet]:
    """The answers of ``examples`` as the method compares them.

    Args:
        rows: with every answer rendered.
        examples: preferences among them.
        method: one of this module's, or reward.
    """
    preferences = [one for one in examples if isinstance(one, Preference)]
    sequences = [rows.sequences[one.row] for one in preferences]
    return single_sets(preferences, sequences) if method == "kto" else pair_sets(preferences, sequences)


def preference_method(
    config: TrainConfig,
    method: MethodName,
    base: LoadedModel,
    rows: PreparedRows,
    *,
    forward: Forward,
    max_tokens: int,
    home: Path,
    progress: Callable[[int, int], None],
) -> Method:
    """The method on these rows, with the base's log-probabilities at hand and its own invariant measured.

    Args:
        config: the options.
        method: one of this module's.
        base: with a fresh adapter, inside the block of ``forward``.
        rows: as prepared.
        forward: the path that training takes.
        max_tokens: tokens computed at once.
        home: hone's home folder.
        progress: told how many of how many reference answers are done.

    Raises:
        DataError: no two answers are left to compare, or no two to judge.
    """
    train, validation = (answer_sets(rows, part, method) for part in (rows.train, rows.validation))
    if not train or (method == "kto" and len(train) < 2):
        raise DataError(
            f"no answers are left for {method} to learn from",
            where=str(rows.manifest["source"]["name"]),
            remedy="see what became of the rows: hone data check",
        )
    options = resolve_options(config, method, train)
    label = config.quantize or ""
    if method in WITH_REFERENCE:
        both = _with_references(
            [*train, *validation], base, forward=forward, home=home, max_tokens=max_tokens, label=label,
            progress=progress,
        )  # fmt: skip
        train, validation = both[: len(train)], both[len(train) :]

    def collate(sets: Sequence[AnswerSet], *, max_tokens: int) -> list[AnswerBatch]:
        divergence = 0.0
        if method == "kto":
            divergence = _divergence(base, sets, forward=forward, max_tokens=max_tokens)
        return pack_answers(sets, max_tokens=max_tokens, divergence=divergence)

    objective = preference_objective(options)
    made = Method(train, validation, collate, forward, objective, facts={"preference": asdict(options)})
    sample = train[:: max(1, len(train) // _CHECKED_SETS)][:_CHECKED_SETS]
    return replace(made, proof=(_first_loss(made, base, sample, options, max_tokens=max_tokens),))


def preference_objective(options: PreferenceOptions) -> Objective:
    """The method's objective as the loop calls it: on the log-probabilities of a batch's supervised tokens.

    Args:
        options: the method and its numbers.
    """

    def objective(logprobs_S: Tensor, batch: AnswerBatch) -> tuple[Tensor, int, Mapping[str, Tensor]]:
        sums_B, tokens_B = _sums(logprobs_S, batch)
        references_B = torch.tensor(batch.references_B, dtype=torch.float32, device=sums_B.device)
        return preference_loss(sums_B, tokens_B, references_B, batch, options)

    return objective


def preference_loss(
    sums_B: Tensor, tokens_B: Tensor, references_B: Tensor, batch: AnswerBatch, options: PreferenceOptions
) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    """The method's objective on the answers of a batch.

    Args:
        sums_B: log-probability of each answer under the model, in nats.
        tokens_B: its tokens.
        references_B: log-probability under the base; empty where the method has no reference.
        batch: says which answer is better than which, or which is liked.
        options: the method and its numbers.
    """
    if options.method == "kto":
        liked_B = torch.tensor(batch.liked_B, dtype=torch.bool, device=sums_B.device)
        return kto_loss(
            sums_B, references_B, liked_B, divergence=batch.divergence, beta=options.beta,
            desirable_weight=options.desirable_weight, undesirable_weight=options.undesirable_weight,
        )  # fmt: skip
    better_P, worse_P = (torch.tensor(one, dtype=torch.long, device=sums_B.device) for one in
                         (batch.better_P, batch.worse_P))  # fmt: skip
    policy = Answers(sums_B[better_P], sums_B[worse_P], tokens_B[better_P], tokens_B[worse_P])
    if options.method == "orpo":
        return orpo_loss(policy, beta=options.beta)
    if options.method == "simpo":
        return simpo_loss(
            policy, beta=options.beta, target_margin=options.target_margin, label_smoothing=options.label_smoothing
        )
    known = Answers(references_B[better_P], references_B[worse_P], policy.chosen_tokens_P, policy.rejected_tokens_P)
    if options.method == "ipo":
        return ipo_loss(policy, known, beta=options.beta, length_normalised=options.length_normalised)
    return dpo_loss(
        policy, known, beta=options.beta, label_smoothing=options.label_smoothing,
        length_normalised=options.length_normalised,
    )  # fmt: skip


def _sums(logprobs_S: Tensor, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
    owners_S = torch.tensor(batch.owners_S, dtype=torch.long, device=logprobs_S.device)
    count = len(batch.leaves)
    return answer_sums(logprobs_S, owners_S, count), answer_sums(torch.ones_like(logprobs_S), owners_S, count)


def _with_references(
    sets: Sequence[AnswerSet],
    base: LoadedModel,
    *,
    forward: Forward,
    home: Path,
    max_tokens: int,
    label: str,
    progress: Callable[[int, int], None],
) -> list[AnswerSet]:
    """The sets with the base's log-probabilities of their answers."""
    answers: list[TokenSequence] = []
    for one in sets:
        answers += [*one.sequences, *([one.mismatched] if one.mismatched else [])]
    found = iter(
        reference_logprobs(
            base, answers, forward=forward, home=home, max_tokens=max_tokens, label=label,
            on_done=lambda done: progress(done, len(answers)),
        )
    )  # fmt: skip
    return [
        replace(
            one,
            references=tuple(next(found) for _ in one.sequences),
            mismatched_reference=next(found) if one.mismatched else 0.0,
        )
        for one in sets
    ]


def _divergence(base: LoadedModel, sets: Sequence[AnswerSet], *, forward: Forward, max_tokens: int) -> float:
    """KTO's estimate of the divergence from the base: over the step's prompts, each with another row's answer."""
    apart = [(one.mismatched, one.mismatched_reference) for one in sets if one.mismatched is not None]
    if not apart:
        return 0.0
    now = answer_logprobs(base.model, [sequence for sequence, _ in apart], forward=forward, max_tokens=max_tokens)
    return max(0.0, sum(new - old for new, (_, old) in zip(now, apart, strict=True)) / len(apart))


def _first_loss(
    method: Method, base: LoadedModel, sample: Sequence[AnswerSet], options: PreferenceOptions, *, max_tokens: int
) -> Invariant:
    """Invariant 6 for the method: with the adapter at initialisation the loss is what the base alone gives."""
    base.model.eval()
    batches = method.collate(sample, max_tokens=max_tokens)
    loss = mean_loss(base.model, batches, forward=method.forward, objective=method.objective)
    if options.method == "dpo":
        expected, words = math.log(2), "ln 2"
    elif options.method == "ipo":
        expected, words = 1 / (4 * options.beta**2), "1 / (4 beta^2)"
    elif options.method == "kto":
        weights = [options.desirable_weight if one.liked else options.undesirable_weight for one in sample]
        expected, words = sum(weights) / len(weights) / 2, "half the mean weight"
    else:
        with adapter_disabled(base.model):
            expected = mean_loss(base.model, batches, forward=method.forward, objective=method.objective)
        words = "the base's own"
    gap = abs(loss - expected)
    bound = _FLOAT32_LOSS if base.model.dtype == torch.float32 else _ROUNDED_LOSS
    bound *= max(1.0, expected)
    return Invariant(
        6, f"before the first step the loss of {options.method} is {words}", gap <= bound, gap,
        f"|{loss:.6f} - {expected:.6f}| <= {bound:g}", f"{len(sample)} rows",
        "report the model: its adapter changes it before it is trained",
    )  # fmt: skip
