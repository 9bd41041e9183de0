"""Held-out preferences: how often an arm finds the better answer better, with intervals, by slices of length.

Each pair of answers has a margin under each arm: above 0 where the arm finds the better one better; 0 counts half. Rows
that share a prompt are drawn together. A model may have learnt that people like long answers and nothing else; so pairs
whose answers are of like length are told apart from those where the better one is longer, or shorter.

Answers that were judged one by one make pairs of every liked with every other one: the accuracy is the area under the
ROC curve, 50 by chance whatever the share of liked ones, and varies as DeLong et al. 1988 have it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hone.evaluation.examples import answers_by_row, pick_examples
from hone.evaluation.outcome import ArmSummary, Difference, Evaluation
from hone.evaluation.scorers import Metric
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import FloatArray, mean_aggregate, most_common_share
from hone.types import ArmName, JsonDict

__all__ = ["PREFERENCE_ACCURACY", "ArmMargins", "JudgedPair", "compare_preferences"]

PREFERENCE_ACCURACY = Metric(
    "preference_accuracy",
    "Preference accuracy",
    "Share of held-out pairs whose better answer the arm finds better; of answers that were judged one by one, of all "
    "pairs of a liked with another one. 50 is chance.",
    mean_aggregate,
    None,
)
# Answers of like length: neither is longer than the other by more than this share.
_LIKE_LENGTH = 0.2
_BINS = 10
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """One held-out pair.

    Args:
        row: ordinal of its row.
        cluster: what is drawn together, as a hash of the prompt.
        better_tokens: length of the better answer; 0 where one answer was judged by itself.
        worse_tokens: of the worse one.
        liked: of an answer that was judged by itself, whether it is as wanted; None of a pair. All are of one kind.
    """

    row: int
    cluster: Hashable
    better_tokens: int
    worse_tokens: int
    liked: bool | None = None

    @property
    def slice(self) -> str:
        """``length_matched``, ``better_is_longer`` or ``better_is_shorter``."""
        longer = max(self.better_tokens, self.worse_tokens)
        if longer - min(self.better_tokens, self.worse_tokens) <= _LIKE_LENGTH * longer:
            return "length_matched"
        return "better_is_longer" if self.better_tokens > self.worse_tokens else "better_is_shorter"


@dataclass(frozen=True, slots=True)
class ArmMargins:
    """What one arm says of the pairs.

    Args:
        arm: its name.
        margins: of each pair; above 0 where it finds the better answer better. Of an answer that was judged by itself,
            what it is worth to the arm.
        how: what the margin is, in words.
        is_log_odds: whether the margin is the logit of a probability, so that its calibration can be measured.
        texts: answers it generated, by row; may be of some rows only.
        stopped: whether it ended each of them.
        tokens: of all of them together.
        seconds: for all of them; None where nothing was generated.
    """

    arm: ArmName
    margins: Sequence[float]
    how: str
    is_log_odds: bool = False
    texts: Mapping[int, str] | None = None
    stopped: Mapping[int, bool] | None = None
    tokens: int = 0
    seconds: float | None = None


def compare_preferences(
    pairs: Sequence[JudgedPair],
    arms: Sequence[ArmMargins],
    *,
    shape: TaskShape,
    prompts: Mapping[int, str],
    references: Mapping[int, str],
    seed: int = 0,
) -> tuple[Evaluation, JsonDict]:
    """Compare arms on held-out pairs.

    Args:
        pairs: at least one.
        arms: base, tuned or both; each with a margin for every pair.
        shape: the kind of answers, for the reader.
        prompts: what was asked, by row.
        references: the better answer, by row.
        seed: of the bootstrap.

    Returns:
        The comparison, and as JSON what it holds besides: ``slices``, ``calibration``, ``chance`` and ``how``.
    """
    assert pairs, "at least one pair"
    assert all(len(arm.margins) == len(pairs) for arm in arms), "a margin for every pair"
    shares = {arm.arm: _shares(pairs, arm.margins) for arm in arms}
    right = {name: _counted(pairs, values) for name, values in shares.items()}
    bootstrap = PairedBootstrap(len(pairs), seed=seed, clusters=[pair.cluster for pair in pairs])
    differences = []
    if {"base", "tuned"} <= right.keys():
        compared = bootstrap.compare(right["tuned"], right["base"], mean_aggregate, bounds=PREFERENCE_ACCURACY.bounds)
        differences = [Difference("tuned", "base", PREFERENCE_ACCURACY.name, compared)]
    answers = _answers(pairs, arms, shares, prompts, references)
    focus = "tuned" if "tuned" in right else arms[-1].arm
    against = "base" if focus == "tuned" and "base" in right else None
    evaluation = Evaluation(
        metrics=[PREFERENCE_ACCURACY],
        shape=shape,
        rows=len(pairs),
        arms={arm.arm: _summary(arm, right[arm.arm], bootstrap) for arm in arms},
        differences=differences,
        other_differences=[],
        examples=pick_examples(answers, focus, against),
        answers=answers,
        not_measured=[],
        method=bootstrap.describe("distinct prompt"),
        reference_most_common_share=0.0,
        unit="row" if pairs[0].liked is not None else "pair",
    )
    further: JsonDict = {
        "pairs": len(pairs),
        "chance": 50.0,
        "longer_is_better": _rounded(_share_longer(pairs)),
        "how": {arm.arm: arm.how for arm in arms},
        "slices": _slices(pairs, right, seed),
        "calibration": {arm.arm: _calibration(arm.margins) for arm in arms if arm.is_log_odds},
    }
    return evaluation, {"preferences": further}


def _shares(pairs: Sequence[JudgedPair], margins: Sequence[float]) -> FloatArray:
    """How right the arm is on each pair, from 0 to 1; half where it cannot tell.

    An answer that was judged by itself is held against every answer of the other kind; against none, it is half right.
    """
    values = np.asarray(margins, dtype=np.float64)
    if pairs[0].liked is None:
        return _hits(values)
    liked = np.array([bool(pair.liked) for pair in pairs])
    if liked.all() or not liked.any():
        return np.full(len(pairs), 0.5)
    shares = np.empty(len(pairs))
    for kind in (True, False):
        others = values[liked != kind]
        leads = values[liked == kind, None] - others[None, :]
        shares[liked == kind] = _hits(leads if kind else -leads).mean(axis=1)
    return shares


def _hits(leads: FloatArray) -> FloatArray:
    return np.where(leads > 0, 1.0, np.where(leads == 0, 0.5, 0.0))


def _counted(pairs: Sequence[JudgedPair], shares: FloatArray) -> FloatArray:
    """(right, 1) of each pair, as the bootstrap draws them.

    Of answers that were judged by themselves the mean over either kind alone is the area under the curve. Each counts
    by how far it moves that area, so that a mean of draws varies by both kinds: DeLong et al. 1988.
    """
    counted = shares
    if pairs[0].liked is not None:
        liked = np.array([bool(pair.liked) for pair in pairs])
        kinds = np.where(liked, liked.sum(), (~liked).sum())
        area = shares[liked].mean() if liked.any() else 0.5
        counted = area + len(pairs) / kinds * (shares - area)
    return np.column_stack([counted, np.ones(len(pairs))])


def _summary(arm: ArmMargins, right: FloatArray, bootstrap: PairedBootstrap) -> ArmSummary:
    score = float(mean_aggregate(right.sum(axis=0)))
    stopped = list((arm.stopped or {}).values())
    return ArmSummary(
        arm=arm.arm,
        score=score,
        interval=bootstrap.interval(right, mean_aggregate, bounds=PREFERENCE_ACCURACY.bounds),
        metrics={PREFERENCE_ACCURACY.name: score},
        stop_share=sum(stopped) / len(stopped) if stopped else 1.0,
        tokens=arm.tokens,
        seconds=arm.seconds,
        most_common_share=most_common_share(list((arm.texts or {}).values())),
    )


def _answers(
    pairs: Sequence[JudgedPair],
    arms: Sequence[ArmMargins],
    shares: Mapping[ArmName, FloatArray],
    prompts: Mapping[int, str],
    references: Mapping[int, str],
) -> list[JsonDict]:
    """The first pair of each row, with what the arms generated for it."""
    first: dict[int, int] = {}
    for index, pair in enumerate(pairs):
        first.setdefault(pair.row, index)
    rows = list(first)
    at = list(first.values())
    nothing = "(no answer was generated for this row)"
    return answers_by_row(
        rows,
        [prompts[row] for row in rows],
        [references[row] for row in rows],
        {arm.arm: [(arm.texts or {}).get(row, nothing) for row in rows] for arm in arms},
        {arm.arm: [(arm.stopped or {}).get(row, True) for row in rows] for arm in arms},
        {name: 100.0 * values[at] for name, values in shares.items()},
    )


def _slices(pairs: Sequence[JudgedPair], right: Mapping[ArmName, FloatArray], seed: int) -> JsonDict:
    """By length: pairs, and each arm's accuracy with its interval."""
    slices: JsonDict = {}
    for name in ("length_matched", "better_is_longer", "better_is_shorter"):
        at = [index for index, pair in enumerate(pairs) if pair.better_tokens and pair.slice == name]
        slices[name] = {"pairs": len(at), "arms": {}}
        if not at:
            continue
        bootstrap = PairedBootstrap(len(at), seed=seed, clusters=[pairs[index].cluster for index in at])
        for arm, values in right.items():
            interval = bootstrap.interval(values[at], mean_aggregate, bounds=PREFERENCE_ACCURACY.bounds)
            slices[name]["arms"][arm] = {
                "score": _rounded(float(mean_aggregate(values[at].sum(axis=0)))),
                "interval": None if interval is None else [_rounded(bound) for bound in interval],
            }
    return slices


def _calibration(margins: Sequence[float]) -> JsonDict:
    """How far certainty is from how often the arm is right: expected calibration error (Naeini et al. 2015)."""
    certain = [1 / (1 + math.exp(-min(700.0, abs(margin)))) for margin in margins]
    hits = _hits(np.asarray(margins, dtype=np.float64)).tolist()
    bins = []
    error = 0.0
    for number in range(_BINS):
        low, high = 0.5 + number / (2 * _BINS), 0.5 + (number + 1) / (2 * _BINS)
        last = number == _BINS - 1
        inside = [index for index, one in enumerate(certain) if low <= one < high or (last and one >= high)]
        if inside:
            said = sum(certain[index] for index in inside) / len(inside)
            was = sum(hits[index] for index in inside) / len(inside)
            error += len(inside) / len(margins) * abs(said - was)
            bins.append({"pairs": len(inside), "certainty": _rounded(said), "right": _rounded(was)})
    return {"expected_calibration_error": _rounded(error), "bins": bins}


def _share_longer(pairs: Sequence[JudgedPair]) -> float | None:
    """How often the longer answer is the better one, from 0 to 100: what a judge of length alone would reach."""
    unequal = [pair for pair in pairs if pair.better_tokens != pair.worse_tokens]
    longer = sum(pair.better_tokens > pair.worse_tokens for pair in unequal)
    return 100.0 * longer / len(unequal) if unequal else None


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(float(number), _DECIMALS)
