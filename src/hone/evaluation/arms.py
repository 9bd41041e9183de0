"""The comparison: every arm's answers to the same held-out rows, scored, with intervals and differences.

Pure arithmetic over texts and numbers; who generated the answers, and how, is the recipe's business. All arms are
treated alike: those with the names of ``ArmName``, and others under a name of their own, as another version.
p-values are corrected, metric by metric, over the pairs with a tuned arm, and over the others (``correction.py``).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from hone.errors import ConfigError, DataError
from hone.evaluation.correction import corrected
from hone.evaluation.examples import answers_by_row, pick_examples
from hone.evaluation.fit import measure_fit
from hone.evaluation.outcome import ArmSummary, Difference, Evaluation
from hone.evaluation.scorers import METRICS, Metric, likelihood_statistics, metrics_for
from hone.evaluation.shape import TaskShape
from hone.evaluation.slices import Slice, compare_on_slices
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import FloatArray, most_common_share
from hone.types import JsonDict

__all__ = ["ArmResult", "evaluate_arms"]

LIKELIHOOD = "bits_per_byte"


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm answered; every list is as long as the held-out rows.

    Args:
        arm: its name.
        predictions: the answers' texts.
        stopped: whether the model ended the answer by itself, not by the token limit.
        output_tokens: tokens generated for each answer; None where nobody counted them.
        seconds: wall-clock time of generating all answers; None where nobody measured it.
        bits: bits that the model needs for each reference answer; None where nobody measured them.
        reference_bytes: UTF-8 bytes of each reference answer; empty where ``bits`` is None.
        prompt_tokens: tokens read for each answer; None where nobody counted them.
        shared_prompt_tokens: tokens at the beginning of all prompts alike, which are computed once.
        how: what the arm was made of, for people and programs.
    """

    arm: str
    predictions: Sequence[str]
    stopped: Sequence[bool]
    output_tokens: Sequence[int] | None
    seconds: float | None = None
    bits: Sequence[float] | None = None
    reference_bytes: Sequence[int] = ()
    prompt_tokens: Sequence[int] | None = None
    shared_prompt_tokens: int = 0
    how: JsonDict = field(default_factory=dict)


def evaluate_arms(
    shape: TaskShape,
    references: Sequence[str],
    prompts: Sequence[str],
    arms: Sequence[ArmResult],
    metric: str | None = None,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    *,
    row_numbers: Sequence[int] | None = None,
    confidence: float = 0.95,
    grounding: JsonDict | None = None,
    not_run: Sequence[Mapping[str, str]] = (),
    slices: Sequence[Slice] = (),
) -> Evaluation:
    """Score all arms on the same rows and compare them.

    Args:
        shape: the kind of answers the task wants; found from the training answers.
        references: the right answers, one per held-out row.
        prompts: the last user text of each row, for the examples.
        arms: the answers; at least one arm, no name twice.
        metric: name of the primary metric, where it is not the shape's own.
        seed: seed of resamples and permutations.
        clusters: per row, what it belongs to (rows that share a prompt); None: each row by itself.
        row_numbers: ordinals of the rows in their file, for the examples; by default 1, 2, 3, ...
        confidence: nominal coverage of the intervals.
        grounding: as :func:`hone.evaluation.grounding.measure_grounding` gives it, kept with the figures.
        not_run: {"what", "reason"} of each arm that could not answer.
        slices: parts of the rows to compare base and tuned arms on by themselves.

    Raises:
        ConfigError: ``metric`` is unknown, or needs likelihoods that not all arms have.
        DataError: there are no held-out rows.
    """
    _check(references, prompts, arms)
    metrics, unmeasured = _measurable_metrics(metrics_for(shape, metric), arms)
    primary = metrics[0]
    statistics = {arm.arm: _all_statistics(metrics, arm, references, shape) for arm in arms}
    sums = {name: by_metric[primary.name] for name, by_metric in statistics.items()}
    bootstrap = PairedBootstrap(len(references), seed=seed, clusters=clusters, confidence=confidence)
    differences = _differences(bootstrap, metrics, arms, statistics)
    answers = _answers(references, prompts, arms, primary, statistics, row_numbers)
    return Evaluation(
        metrics=metrics,
        shape=shape,
        rows=len(references),
        arms={arm.arm: _summary(arm, metrics, primary, statistics[arm.arm], bootstrap) for arm in arms},
        differences=[one for one in differences if one.metric == primary.name],
        other_differences=[one for one in differences if one.metric != primary.name],
        examples=pick_examples(answers, *_focus(arms), higher_is_better=primary.higher_is_better),
        answers=answers,
        not_measured=[*map(dict, not_run), *unmeasured],
        method=_method(bootstrap, clusters is not None),
        reference_most_common_share=most_common_share(references),
        grounding=grounding,
        fit=measure_fit(primary, shape, references, {arm.arm: arm.predictions for arm in arms}, bootstrap),
        slices=compare_on_slices(slices, primary, sums, like=bootstrap, clusters=clusters),
    )


def _answers(
    references: Sequence[str],
    prompts: Sequence[str],
    arms: Sequence[ArmResult],
    primary: Metric,
    statistics: Mapping[str, Mapping[str, FloatArray]],
    row_numbers: Sequence[int] | None,
) -> list[JsonDict]:
    return answers_by_row(
        row_numbers or range(1, len(references) + 1),
        prompts,
        references,
        {arm.arm: arm.predictions for arm in arms},
        {arm.arm: arm.stopped for arm in arms},
        {name: primary.row_scores(by_metric[primary.name]) for name, by_metric in statistics.items()},
    )


def _check(references: Sequence[str], prompts: Sequence[str], arms: Sequence[ArmResult]) -> None:
    if not references:
        raise DataError(
            "there are no held-out rows to evaluate on",
            why="without rows that training has not seen, nothing can be said about the tuned model",
            remedy="give some with --eval FILE, or more training rows so that a part can be held out",
        )
    assert arms, "at least one arm"
    assert len({arm.arm for arm in arms}) == len(arms), "each arm once"
    assert len(prompts) == len(references), "one prompt per row"
    for arm in arms:
        columns = (arm.predictions, arm.stopped, arm.predictions if arm.output_tokens is None else arm.output_tokens)
        assert all(len(column) == len(references) for column in columns), f"{arm.arm}: one answer per row"
        if arm.bits is not None:
            assert len(arm.bits) == len(arm.reference_bytes) == len(references), f"{arm.arm}: bits of each row"


def _measurable_metrics(metrics: list[Metric], arms: Sequence[ArmResult]) -> tuple[list[Metric], list[JsonDict]]:
    """All metrics incl. bits per byte, primary first, and what some arm cannot give."""
    reasons = {arm.arm: reason for arm in arms if (reason := _why_no_likelihood(arm)) is not None}
    others = [arm for arm in reasons if arm not in ("base", "tuned")]
    unmeasured: list[JsonDict] = [
        {"what": f"{LIKELIHOOD} of {arm}", "reason": reason} for arm, reason in reasons.items() if arm not in others
    ]
    if others:
        unmeasured.append({"what": f"{LIKELIHOOD} of {', '.join(others)}", "reason": reasons[others[0]]})
    if metrics[0].name == LIKELIHOOD and unmeasured:
        raise ConfigError(
            f"{LIKELIHOOD} cannot be the metric: {unmeasured[0]['reason']} ({unmeasured[0]['what']})",
            where="metric",
            remedy="choose a metric of the answers' texts",
        )
    likelihood = [] if metrics[0].name == LIKELIHOOD else [METRICS[LIKELIHOOD]]
    return [*metrics, *likelihood], unmeasured


def _why_no_likelihood(arm: ArmResult) -> str | None:
    if arm.bits is None:
        return "the likelihood of the reference answers was not measured"
    infinite = sum(1 for bits in arm.bits if not math.isfinite(bits))
    return f"the likelihood is not finite on {infinite} of {len(arm.bits)} rows" if infinite else None


def _has(metric: Metric, arm: ArmResult) -> bool:
    return metric.statistics is not None or _why_no_likelihood(arm) is None


def _all_statistics(
    metrics: Sequence[Metric], arm: ArmResult, references: Sequence[str], shape: TaskShape
) -> dict[str, FloatArray]:
    return {one.name: _statistics(one, arm, references, shape) for one in metrics if _has(one, arm)}


def _statistics(metric: Metric, arm: ArmResult, references: Sequence[str], shape: TaskShape) -> FloatArray:
    if metric.statistics is not None:
        return metric.statistics(arm.predictions, references, shape)
    assert arm.bits is not None, "only arms that have likelihoods get here"
    return likelihood_statistics(arm.bits, arm.reference_bytes)


# From least effort to most: what has to be made and kept for it. In a pair the later one is held against the earlier.
_EFFORT = ("base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval")


def _pairs(arms: Sequence[ArmResult]) -> list[tuple[ArmResult, ArmResult]]:
    """Which arms are held against which: all pairs, tuned against base first. Arms of other names: tuned against them.

    Without a tuned arm those are held against the last of the others.
    """
    known = sorted((arm for arm in arms if arm.arm in _EFFORT), key=lambda arm: _EFFORT.index(arm.arm))
    pairs = [(later, earlier) for later in reversed(known) for earlier in known[: known.index(later)]]
    pairs.sort(key=lambda pair: (pair[0].arm != "tuned", not pair[0].arm.startswith("tuned")))
    own = next((arm for arm in known if arm.arm == "tuned"), known[-1] if known else None)
    others = [arm for arm in arms if arm.arm not in _EFFORT]
    return pairs + [(own, other) for other in others if own is not None]


def _focus(arms: Sequence[ArmResult]) -> tuple[str, str | None]:
    """The arm whose gains and losses the examples show, and the arm it is held against."""
    pairs = _pairs(arms)
    for arm, against in pairs:
        if arm.arm == "tuned":
            return arm.arm, against.arm
    return (pairs[0][0].arm, pairs[0][1].arm) if pairs else (arms[-1].arm, None)


def _differences(
    bootstrap: PairedBootstrap,
    metrics: Sequence[Metric],
    arms: Sequence[ArmResult],
    statistics: dict[str, dict[str, FloatArray]],
) -> list[Difference]:
    differences = []
    for metric in metrics:
        pairs = [(arm, against) for arm, against in _pairs(arms) if _has(metric, arm) and _has(metric, against)]
        for family in _families(pairs):
            differences += _judged(bootstrap, metric, family, statistics)
    return differences


def _families(pairs: Sequence[tuple[ArmResult, ArmResult]]) -> list[list[tuple[ArmResult, ArmResult]]]:
    """Pairs that are corrected together: those with a tuned arm ask whether tuning is worth it, the others do not."""
    with_tuned = [pair for pair in pairs if any(arm.arm.startswith("tuned") for arm in pair)]
    return [with_tuned, [pair for pair in pairs if pair not in with_tuned]]


def _judged(
    bootstrap: PairedBootstrap,
    metric: Metric,
    pairs: Sequence[tuple[ArmResult, ArmResult]],
    statistics: dict[str, dict[str, FloatArray]],
) -> list[Difference]:
    found = []
    for arm, against in pairs:
        word_for_word = list(arm.predictions) == list(against.predictions)
        compared = bootstrap.compare(
            statistics[arm.arm][metric.name],
            statistics[against.arm][metric.name],
            metric.aggregate,
            higher_is_better=metric.higher_is_better,
            bounds=None if word_for_word else metric.bounds,
            row_scores=metric.row_aggregate,
            comparisons=len(pairs),
        )
        found.append(compared)
    return [
        Difference(arm.arm, against.arm, metric.name, judged)
        for (arm, against), judged in zip(pairs, corrected(found), strict=True)
    ]


def _summary(
    arm: ArmResult,
    metrics: Sequence[Metric],
    primary: Metric,
    statistics: dict[str, FloatArray],
    bootstrap: PairedBootstrap,
) -> ArmSummary:
    scores: dict[str, float | None] = {
        metric.name: metric.corpus_score(statistics[metric.name]) if metric.name in statistics else None
        for metric in metrics
    }
    read = arm.prompt_tokens
    return ArmSummary(
        arm=arm.arm,
        score=primary.corpus_score(statistics[primary.name]),
        interval=bootstrap.interval(statistics[primary.name], primary.aggregate, bounds=primary.bounds),
        metrics=scores,
        stop_share=sum(map(bool, arm.stopped)) / len(arm.stopped),
        tokens=None if arm.output_tokens is None else sum(arm.output_tokens),
        seconds=arm.seconds,
        most_common_share=most_common_share(arm.predictions),
        prompt_tokens=None if read is None else sum(read),
        computed_prompt_tokens=None if read is None else sum(read) - arm.shared_prompt_tokens * (len(read) - 1),
        answers=len(arm.predictions),
        how=arm.how,
    )


def _method(bootstrap: PairedBootstrap, clustered: bool) -> JsonDict:
    correction = "Holm, under one metric over the pairs with a tuned arm, and over the others"
    return {**bootstrap.describe("distinct prompt" if clustered else "row"), "correction": correction}
