"""What rankings say: who wins blind, how strong each contender is, whether raters agree, and whether length decides.

A ranking of several answers counts as all pairs of them. Prompts are the units of every interval: all votes on one
prompt are drawn together, so that many raters of few prompts do not look like many prompts. Answers that several
contenders wrote word for word alike were never shown beside each other; between those contenders they are a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hone.evaluation.agreement import (
    Level,
    alpha_aggregate,
    coincidences,
    kappa_aggregate,
    krippendorff_alpha,
    rater_table,
)
from hone.evaluation.bradley_terry import bradley_terry, strength_aggregate
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import FloatArray, ratio
from hone.types import JsonDict

__all__ = ["Figure", "HeadToHeadVotes", "RankedAnswer", "RankedPrompt", "RankingReport", "report_rankings"]

# what a rater said of a pair: the first is better, neither, the second is better
_OUTCOMES = 3


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """An answer: who wrote it (several, where they wrote the same), and its length in characters."""

    contenders: tuple[str, ...]
    characters: int


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt's answers and what each rater said of them.

    Args:
        key: prompts of one key are drawn together.
        answers: the different ones.
        ranks: by rater, a rank for each of ``answers``, the lower the better; skipped ones are not there.
    """

    key: str
    answers: tuple[RankedAnswer, ...]
    ranks: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, its 95% interval over prompts (None with fewer than two), and of how many things it was made."""

    value: float | None
    interval: tuple[float, float] | None
    count: int


@dataclass(frozen=True, slots=True)
class HeadToHeadVotes:
    """One contender against another.

    Args:
        contender: the one.
        against: the other.
        wins: comparisons in which the one was preferred.
        losses: in which the other was.
        ties: in which neither was.
        same: prompts to which both gave the same answer, word for word, which nobody was asked about.
        share: per cent of comparisons that the one won; a tie is half, and so is a prompt of ``same``, which weighs as
            much as others do on average.
        p_value: two-sided, of the paired permutation test over prompts.
        winner: who wins: the interval leaves out 50 and p < 0.05; None where it is open.
    """

    contender: str
    against: str
    wins: int
    losses: int
    ties: int
    same: int
    share: Figure
    p_value: float | None
    winner: str | None


@dataclass(frozen=True, slots=True)
class RankingReport:
    """What the votes say.

    Args:
        prompts: that were judged by somebody.
        votes: rankings, skipped ones not among them.
        raters: votes of each.
        strengths: Bradley-Terry log-odds of each contender, mean 0.
        against: every two contenders.
        alpha_nominal: Krippendorff's alpha over pairs of answers: first better, tie, second better.
        alpha_ordinal: the same with a tie between the other two.
        kappa: Cohen's, where two raters judged the same pairs; None with another number of raters.
        longer: per cent of decided pairs of unlike length in which the longer answer was preferred.
    """

    prompts: int
    votes: int
    raters: dict[str, int]
    strengths: dict[str, Figure]
    against: list[HeadToHeadVotes]
    alpha_nominal: Figure
    alpha_ordinal: Figure
    kappa: Figure | None
    longer: Figure

    def to_json(self) -> JsonDict:
        """As JSON values."""
        return asdict(self)


def report_rankings(prompts: Sequence[RankedPrompt], contenders: Sequence[str], *, seed: int = 0) -> RankingReport:
    """Judge votes.

    Args:
        prompts: with their answers and votes; also those to which all gave one answer, and those not judged yet.
        contenders: in the order of the report.
        seed: of the resamples.
    """
    judged = [one for one in prompts if one.ranks]
    raters: dict[str, int] = {}
    for one in judged:
        for rater in one.ranks:
            raters[rater] = raters.get(rater, 0) + 1
    votes = sum(raters.values())
    votable = sum(len(one.answers) > 1 for one in prompts)
    # rankings of a prompt on average, however many raters there were: those of a prompt of one answer count as many
    weight = votes / votable if votable else 0.0
    telling = [one for one in prompts if one.ranks or (weight and len(one.answers) == 1)]
    return RankingReport(
        prompts=len(judged),
        votes=votes,
        raters=dict(sorted(raters.items())),
        strengths=_strengths(telling, contenders, weight, seed),
        against=[_against(telling, one, other, weight, seed) for one, other in itertools.combinations(contenders, 2)],
        alpha_nominal=_alpha(judged, "nominal", seed),
        alpha_ordinal=_alpha(judged, "ordinal", seed),
        kappa=_kappa(judged, list(raters), seed) if len(raters) == 2 else None,
        longer=_longer(judged, seed),
    )


def _bootstrap(prompts: Sequence[RankedPrompt], seed: int) -> PairedBootstrap:
    return PairedBootstrap(len(prompts), seed=seed, clusters=[one.key for one in prompts])


def _meetings(prompts: Sequence[RankedPrompt], one: str, other: str, weight: float) -> FloatArray:
    """How two contenders met on each prompt, [prompts, 4]; one of a single answer weighs what others do on average."""
    found = np.array([_met(prompt, one, other) for prompt in prompts]).reshape(len(prompts), 4)
    rankings = [len(prompt.ranks) for prompt, row in zip(prompts, found, strict=True) if row[:3].any()]
    of_ranking = found[:, :3].sum() / sum(rankings) if rankings else 1.0
    found[:, 3] *= weight * of_ranking
    return found


def _met(prompt: RankedPrompt, one: str, other: str) -> FloatArray:
    """How two contenders met on a prompt: wins of the one, of the other, ties, and 1 where both said the same."""
    found = np.zeros(4)
    if not prompt.ranks:
        found[3] = {one, other} <= set(prompt.answers[0].contenders)
    for ranks in prompt.ranks.values():
        for first, second in itertools.product(range(len(prompt.answers)), repeat=2):
            if one in prompt.answers[first].contenders and other in prompt.answers[second].contenders:
                found[0] += ranks[first] < ranks[second]
                found[1] += ranks[first] > ranks[second]
                found[2] += ranks[first] == ranks[second]
    return found


def _strengths(
    prompts: Sequence[RankedPrompt], contenders: Sequence[str], weight: float, seed: int
) -> dict[str, Figure]:
    count = len(contenders)
    wins_PKK = np.zeros((len(prompts), count, count))
    for one, other in itertools.combinations(range(count), 2):
        met = _meetings(prompts, contenders[one], contenders[other], weight)
        halves = met[:, 2:].sum(axis=1) / 2.0
        wins_PKK[:, one, other], wins_PKK[:, other, one] = met[:, 0] + halves, met[:, 1] + halves
    sums = wins_PKK.sum(axis=0)
    values = bradley_terry(sums)
    figures = {}
    for index, name in enumerate(contenders):
        games = float((sums[index] + sums[:, index]).sum())
        if not games:
            figures[name] = Figure(None, None, 0)
            continue
        interval = _bootstrap(prompts, seed).interval(
            wins_PKK.reshape(len(prompts), -1), strength_aggregate(count, index)
        )
        if interval is not None and interval[0] == interval[1]:
            interval = None  # one side won every time: all resamples are alike, and say nothing of how sure that is
        figures[name] = Figure(float(values[index]), interval, round(games))
    return figures


def _against(prompts: Sequence[RankedPrompt], one: str, other: str, weight: float, seed: int) -> HeadToHeadVotes:
    met = _meetings(prompts, one, other, weight)
    found = [(prompt, counts) for prompt, counts in zip(prompts, met, strict=True) if counts.any()]
    share, p_value, winner, total = Figure(None, None, 0), None, None, np.zeros(4)
    if found:
        counts_P4 = np.stack([counts for _, counts in found])
        total = counts_P4.sum(axis=0)
        games = counts_P4.sum(axis=1)
        halves = counts_P4[:, 2:].sum(axis=1) / 2.0
        won, lost = (np.column_stack([counts_P4[:, index] + halves, games]) for index in (0, 1))
        bootstrap = _bootstrap([prompt for prompt, _ in found], seed)
        interval = bootstrap.interval(won, _percent, bounds=(0.0, 100.0))
        compared = bootstrap.compare(won, lost, _percent, bounds=(0.0, 100.0))
        share = Figure(float(_percent(won.sum(axis=0))), interval, round(float(games.sum())))
        p_value = compared.p_value
        if compared.different and interval is not None and not interval[0] <= 50.0 <= interval[1]:
            winner = one if compared.difference > 0 else other
    same = sum({one, other} <= set(prompt.answers[0].contenders) for prompt, _ in found if len(prompt.answers) == 1)
    wins, losses, ties = (round(float(one)) for one in total[:3])
    return HeadToHeadVotes(one, other, wins, losses, ties, same, share, p_value, winner)


def _outcomes(prompt: RankedPrompt) -> list[dict[str, int]]:
    """What each rater said of each pair, both ways round: which answer stands first must not matter."""
    return [
        {rater: int(np.sign(ranks[first] - ranks[second])) + 1 for rater, ranks in prompt.ranks.items()}
        for first, second in itertools.permutations(range(len(prompt.answers)), 2)
    ]


def _alpha(prompts: Sequence[RankedPrompt], level: Level, seed: int) -> Figure:
    rated = [one for one in prompts if len(one.ranks) > 1]
    units = [list(outcome.values()) for one in rated for outcome in _outcomes(one)]
    value = krippendorff_alpha(units, categories=_OUTCOMES, level=level, mirrored=True)
    if value is None:
        return Figure(None, None, len(units) // 2)
    counts = np.stack(
        [coincidences([list(pair.values()) for pair in _outcomes(one)], _OUTCOMES).sum(axis=0) for one in rated]
    )
    alpha = alpha_aggregate(level, _OUTCOMES, mirrored=True)
    interval = _bootstrap(rated, seed).interval(counts, alpha, bounds=(-1.0, 1.0))
    return Figure(value, interval, len(units) // 2)


def _kappa(prompts: Sequence[RankedPrompt], raters: Sequence[str], seed: int) -> Figure:
    rated = [one for one in prompts if len(one.ranks) == len(raters)]
    tables = [
        rater_table([(pair[raters[0]], pair[raters[1]]) for pair in _outcomes(one)], _OUTCOMES).sum(axis=0)
        for one in rated
    ]
    pairs = sum(len(_outcomes(one)) for one in rated) // 2
    counts = np.stack(tables) if tables else np.zeros((0, _OUTCOMES**2))
    if (counts.sum(axis=0) > 0).sum() < 2:
        return Figure(None, None, pairs)
    kappa = kappa_aggregate(_OUTCOMES)
    interval = _bootstrap(rated, seed).interval(counts, kappa, bounds=(-1.0, 1.0))
    return Figure(float(kappa(counts.sum(axis=0))), interval, pairs)


def _longer(prompts: Sequence[RankedPrompt], seed: int) -> Figure:
    counts = np.zeros((len(prompts), 2))
    for row, prompt in zip(counts, prompts, strict=True):
        lengths = [one.characters for one in prompt.answers]
        for ranks in prompt.ranks.values():
            for first, second in itertools.permutations(range(len(lengths)), 2):
                if ranks[first] < ranks[second] and lengths[first] != lengths[second]:
                    row += (lengths[first] > lengths[second], 1.0)
    decided = [index for index, row in enumerate(counts) if row[1]]
    if not decided:
        return Figure(None, None, 0)
    counts = counts[decided]
    bootstrap = _bootstrap([prompts[index] for index in decided], seed)
    interval = bootstrap.interval(counts, _percent, bounds=(0.0, 100.0))
    return Figure(float(_percent(counts.sum(axis=0))), interval, round(float(counts[:, 1].sum())))


def _percent(sums: FloatArray) -> FloatArray:
    return 100.0 * ratio(sums[..., 0], sums[..., 1])
