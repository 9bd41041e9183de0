"""One estimate: what a way of training would cost on a machine, whether it fits, and what limits it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hone.model.attention_groups import BLOCK_QUERIES
from hone.planning.cost import Training, training_seconds
from hone.planning.history import Correction
from hone.planning.machines import Machine
from hone.planning.peak import PeakMemory, peak_memory
from hone.planning.rates import Rates
from hone.planning.shape import ModelShape
from hone.planning.workload import Workload
from hone.types import JsonDict

__all__ = ["Estimate", "LongestCase", "Place", "cheapest_that_fit", "estimate"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run would go.

    Args:
        machine: its name and prices.
        rates: its speeds.
        on_host: weights lie in main memory.
        free_bytes: that a run can still get; None where not known.
        process_bytes: that this process holds already, and a run's process begins with.
        bytes_per_value: of the dtype of compute.
        margin: how far a prediction of memory may be off, relative.
        price_per_hour: the user's rate; the machine's where None.
    """

    machine: Machine
    rates: Rates
    on_host: bool
    free_bytes: int | None
    process_bytes: int
    bytes_per_value: int
    margin: float
    price_per_hour: float | None = None

    @property
    def block_queries(self) -> int:
        """Queries that are multiplied with the same keys; on a card kernels skip every key after a query."""
        return BLOCK_QUERIES if self.on_host else 1

    def price_of(self, seconds: float) -> float | None:
        """What so many seconds cost; None where no rate is known."""
        rate = self.machine.price_per_hour if self.price_per_hour is None else self.price_per_hour
        return None if rate is None else seconds / 3600 * rate


@dataclass(frozen=True, slots=True)
class LongestCase:
    """What a run takes at most whose answers' lengths nobody knows before.

    Args:
        answer_tokens: of each answer.
        seconds: of the training loop, corrected.
        price: of these seconds; None where no rate is known.
    """

    answer_tokens: int
    seconds: float
    price: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a way of training would cost.

    Args:
        name: of the way, for people.
        options: the options of ``hone run`` that ask for it.
        workload: what is computed.
        training: what is trained.
        memory: its peak, part by part, as the formulas have it.
        peak_memory_bytes: the same, corrected by earlier runs.
        formula_seconds: of the training loop, as the formulas have it.
        seconds: the same, corrected.
        causes: seconds by what takes them, corrected.
        price: of these seconds; None where no rate is known.
        watt_hours: energy; None where the power is not known.
        fits: "yes", "tight" (within the margin of error) or "no"; None where free memory is not known.
        limit: what limits it, in a clause.
        corrected_by: earlier runs and probes that the figures were corrected by.
        longest: the same with the longest answers, where answers are written; None for other methods.
    """

    name: str
    options: str
    workload: Workload
    training: Training
    memory: PeakMemory
    peak_memory_bytes: int
    formula_seconds: float
    seconds: float
    causes: dict[str, float]
    price: float | None
    watt_hours: float | None
    fits: str | None
    limit: str
    corrected_by: int
    longest: LongestCase | None = None

    @property
    def cannot_fit(self) -> bool:
        """Whether it would not fit even if the prediction is too high by its margin."""
        return self.fits == "no"

    def to_json(self) -> JsonDict:
        """Plain values for ``--json``."""
        load = self.workload.training
        return {
            "name": self.name,
            "options": self.options,
            "steps": self.workload.steps,
            "tokens": round(load.tokens),
            "computed_tokens": round(load.computed),
            "supervised_tokens": round(load.supervised),
            "trained_values": self.training.trained_values,
            "recompute_layers": self.training.recompute_layers,
            "seconds": round(self.seconds, 2),
            "seconds_by_cause": {cause: round(seconds, 3) for cause, seconds in self.causes.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_by_part": self.memory.to_json(),
            "price": None if self.price is None else round(self.price, 6),
            "watt_hours": None if self.watt_hours is None else round(self.watt_hours, 3),
            "fits": self.fits,
            "limit": self.limit,
            "corrected_by": self.corrected_by,
            "rollouts": self._rollouts(),
        }

    def _rollouts(self) -> JsonDict | None:
        work = self.workload.rollouts
        if work is None or self.longest is None:
            return None
        price = self.longest.price
        return {
            "answers": round(work.answers),
            "answer_tokens": round(work.tokens / work.answers, 1),
            "most_answer_tokens": self.longest.answer_tokens,
            "most_seconds": round(self.longest.seconds, 2),
            "most_price": None if price is None else round(price, 6),
        }


def estimate(
    name: str,
    options: str,
    *,
    shape: ModelShape,
    workload: Workload,
    training: Training,
    place: Place,
    sampled_rows: tuple[int, ...],
    adapted_values: int | None,
    correction: Correction,
    longest: Workload | None = None,
) -> Estimate:
    """Put the parts together.

    Args:
        name: for people.
        options: that ask for it.
        shape: of the base.
        workload: of the run.
        training: what is trained.
        place: where.
        sampled_rows: see :func:`hone.planning.peak.peak_memory`.
        adapted_values: numbers in the layers under the adapter.
        correction: from earlier runs.
        longest: the same run with the longest answers, which decides about memory; None where none are written.
    """
    most = longest or workload
    memory = peak_memory(
        shape, training, largest=most.largest, sampled_rows=sampled_rows, process_bytes=place.process_bytes,
        bytes_per_value=place.bytes_per_value, on_host=place.on_host, adapted_values=adapted_values,
        decoding_bytes=most.rollouts.decoding_bytes if most.rollouts else 0,
    )  # fmt: skip
    peak = memory.process + round((memory.total - memory.process) * correction.memory)
    formula = training_seconds(shape, workload, training, place.rates)
    causes = {cause: seconds * correction.seconds for cause, seconds in formula.items()}
    seconds = sum(causes.values())
    watts = place.machine.watts
    fits = _fits(peak - memory.process, place)
    return Estimate(
        name, options, workload, training, memory, peak, sum(formula.values()), seconds, causes,
        price=place.price_of(seconds),
        watt_hours=None if watts is None else seconds / 3600 * watts,
        fits=fits,
        limit=_limit(fits, memory, causes, seconds),
        corrected_by=correction.runs,
        longest=None if longest is None else _longest_case(shape, longest, training, place, correction),
    )  # fmt: skip


def _longest_case(
    shape: ModelShape, workload: Workload, training: Training, place: Place, correction: Correction
) -> LongestCase:
    assert workload.rollouts is not None, "methods that write answers have a longest case"
    seconds = sum(training_seconds(shape, workload, training, place.rates).values()) * correction.seconds
    tokens = round(workload.rollouts.tokens / workload.rollouts.answers)
    return LongestCase(tokens, seconds, place.price_of(seconds))


def _fits(needed: int, place: Place) -> str | None:
    """Whether ``needed`` bytes, beyond what the process holds, are free."""
    if place.free_bytes is None:
        return None
    if needed * (1 + place.margin) <= place.free_bytes:
        return "yes"
    return "tight" if needed * (1 - place.margin) <= place.free_bytes else "no"


def _limit(fits: str | None, memory: PeakMemory, causes: dict[str, float], seconds: float) -> str:
    if fits == "no":
        parts = {"weights": memory.weights, "trained values": memory.state, "activations": memory.activations}
        part = max(parts, key=lambda name: parts[name])
        return f"memory: {part} take {parts[part] / 1e9:.1f} GB"
    cause = max(causes, key=lambda name: causes[name])
    return f"{cause}: {causes[cause] / max(seconds, 1e-9):.0%} of the time"


def cheapest_that_fit(found: Iterable[Estimate], count: int = 3) -> Sequence[Estimate]:
    """Those that fit, the fastest first; where none surely does, those that may."""
    every = list(found)
    sure = [one for one in every if one.fits == "yes"]
    maybe = [one for one in every if one.fits == "tight"]
    return [*sorted(sure, key=lambda one: one.seconds), *sorted(maybe, key=lambda one: one.seconds)][:count]
