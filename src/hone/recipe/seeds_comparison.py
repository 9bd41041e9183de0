"""From the answers of every seed's adapter to figures over seeds, and to a verdict that knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.data.loader import load_examples
from hone.data.split import prompt_key
from hone.evaluation.scorers import METRICS, Metric, likelihood_statistics
from hone.evaluation.seeds import SEEDS_METHOD, SeedsComparison, compare_seeds
from hone.evaluation.seeds_verdict import with_seeds_verdict
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import FloatArray
from hone.types import JsonDict

__all__ = ["SeedOutcome", "with_seeds"]

_DECIMALS = 6
_GENERATION = "greedy, the likeliest token each time: answering has no seed"


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """One training and its answers.

    Args:
        folder: in the run's folder; None for the run's own training, which is the one that is registered.
        training: the ``training`` object of its result.
        answered: what its evaluation printed.
        proven: whether all its invariants hold.
    """

    folder: str | None
    training: JsonDict
    answered: JsonDict
    proven: bool


def with_seeds(answered: JsonDict, outcomes: Sequence[SeedOutcome], held_out: Path, *, split_seed: int) -> JsonDict:
    """The comparison of the first seed, with ``seeds`` in its evaluation and a verdict that knows them.

    Args:
        answered: what the evaluation of the first seed's adapter printed.
        outcomes: of every seed, the first one's first.
        held_out: the rows that all answered, as a file.
        split_seed: of the split that all share.
    """
    evaluation = answered["evaluation"]
    metric = METRICS[evaluation["metric"]]
    found = _compared(answered, outcomes, held_out, metric)
    seeds = {
        "metric": metric.name,
        "rows": evaluation["rows"],
        "split_seed": split_seed,
        "generation": _GENERATION,
        "trainings": [
            _training(outcome, score, compared)
            for outcome, score, compared in zip(outcomes, found.scores, found.comparisons, strict=True)
        ],
        "base": _rounded(found.base),
        "mean": _rounded(found.mean),
        "standard_deviation": _rounded(found.standard_deviation),
        "difference": _rounded(found.difference),
        "interval": _pair(found.interval),
        "interval_over_rows": _pair(found.comparisons[0].interval),
        "confidence": found.confidence,
        "different": found.different,
        "degrees_of_freedom": _rounded(found.degrees_of_freedom),
        "rows_error": _rounded(found.rows_error),
        "seeds_error": _rounded(found.seeds_error),
        "method": SEEDS_METHOD,
    }
    verdict = with_seeds_verdict(answered["verdict"], seeds, metric)
    return {**answered, "evaluation": {**evaluation, "seeds": seeds}, "verdict": verdict}


def _compared(answered: JsonDict, outcomes: Sequence[SeedOutcome], held_out: Path, metric: Metric) -> SeedsComparison:
    evaluation = answered["evaluation"]
    shape = TaskShape(evaluation["shape"]["kind"], tuple(evaluation["shape"]["labels"]), evaluation["shape"]["reason"])
    keys = {example.row: prompt_key(example) for example in load_examples(str(held_out)).examples}
    of_base = answered["answers"]
    bootstrap = PairedBootstrap(
        len(of_base), seed=evaluation["method"]["seed"], clusters=[keys[row["row"]] for row in of_base],
        confidence=evaluation["method"]["confidence"],
    )  # fmt: skip
    rows = [outcome.answered["answers"] for outcome in outcomes]
    assert all([row["row"] for row in one] == [row["row"] for row in of_base] for one in rows), "the same rows"
    texts = _texts(of_base, "base")
    return compare_seeds(
        bootstrap,
        _statistics(of_base, "base", metric, shape),
        [_statistics(one, "tuned", metric, shape) for one in rows],
        metric,
        same=[_texts(one, "tuned") == texts for one in rows],
    )


def _statistics(rows: Sequence[JsonDict], arm: str, metric: Metric, shape: TaskShape) -> FloatArray:
    """An arm's sufficient statistics, from its answers; of the likelihood from each row's score."""
    references = [row["reference"] for row in rows]
    if metric.statistics is not None:
        return metric.statistics(_texts(rows, arm), references, shape)
    sizes = [max(1, len(reference.encode("utf-8", "surrogatepass"))) for reference in references]
    return likelihood_statistics([row["scores"][arm] * size for row, size in zip(rows, sizes, strict=True)], sizes)


def _texts(rows: Sequence[JsonDict], arm: str) -> list[str]:
    return [row["answers"][arm] for row in rows]


def _training(outcome: SeedOutcome, score: float, compared: Comparison) -> JsonDict:
    """One line of the table: the seed, what it gave, and its difference over rows alone."""
    shared: dict[str, Any] = {
        name: outcome.training[name] for name in ("seed", "best_step", "validation_loss", "strength", "seconds")
    }
    return {
        **shared,
        "registered": outcome.folder is None,
        "folder": outcome.folder,
        "score": _rounded(score),
        "difference": _rounded(compared.difference),
        "interval": _pair(compared.interval),
        "stop_share": outcome.answered["evaluation"]["arms"]["tuned"]["stop_share"],
        "proven": outcome.proven,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(float(number), _DECIMALS)


def _pair(pair: tuple[float, float] | None) -> list[float | None] | None:
    return None if pair is None else [_rounded(end) for end in pair]
