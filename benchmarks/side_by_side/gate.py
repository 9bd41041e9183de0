"""Correctness before speed: a figure counts only where the system computes what the float32 eager oracle computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

LEAST_COSINE = {"bfloat16": 0.99, "float32": 0.999}
FIRST_LOSS_TOLERANCE = {"bfloat16": 0.01, "float32": 1e-4}  # relative
NORM_TOLERANCE = {"bfloat16": 0.05, "float32": 0.001}  # relative: a wrong divisor has the right direction
CURVE_TOLERANCE = 0.01  # relative, after smoothing
_SMOOTHED_STEPS = 4


@dataclass(frozen=True)
class Verdict:
    """Whether a system's speed may be told, with the figures.

    Args:
        passed: all bounds hold.
        first_loss: relative difference of the first step's loss, at the probe adapter.
        cosine: the least cosine of the gradients of one adapter: a layer's A, or its B.
        norm: relative difference of the norm of all gradients.
        curve: how far the smoothed losses of the timed runs leave the band of the oracles' curves, relative; 0 inside.
        against_float32: the timed runs' mean loss over the float32 oracle's, less one; below zero is better.
        moved: adapter tensors that the timed runs changed, of all.
        problems: each bound that does not hold, in words.
    """

    passed: bool
    first_loss: float
    cosine: float
    norm: float
    curve: float
    against_float32: float
    moved: str
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return asdict(self)


def compare_gradients(theirs: Path, oracle: Path) -> tuple[float, float, list[str]]:
    """(least cosine, relative difference of the whole norm, problems) of two files of gradients.

    Args:
        theirs: one tensor for each A and B, under canonical names.
        oracle: the same of the oracle.
    """
    found, wanted = load_file(theirs), load_file(oracle)
    problems = []
    if set(found) != set(wanted):
        problems.append(f"{len(set(wanted) ^ set(found))} adapter tensors have no counterpart")
    least, own_square, wanted_square = 1.0, 0.0, 0.0
    for name in sorted(set(found) & set(wanted)):
        one, other = found[name].astype(np.float64).ravel(), wanted[name].astype(np.float64).ravel()
        own, reference = float(one @ one), float(other @ other)
        own_square += own
        wanted_square += reference
        if own == 0.0 or reference == 0.0:
            problems.append(f"the gradient of {name} is zero")
            least = 0.0
            continue
        least = min(least, float(one @ other) / (own * reference) ** 0.5)
    if not wanted_square:
        return 0.0, float("inf"), [*problems, "there is no gradient to compare"]
    return least, abs((own_square / wanted_square) ** 0.5 - 1), problems


def curve_difference(losses: Sequence[float], oracles: Sequence[Sequence[float]]) -> float:
    """How far a loss curve leaves the band between the oracles' curves, relative, each smoothed over a few steps.

    The band is needed because bfloat16 learns otherwise than float32: a layer's output stands rounded before the
    adapter's is added, so an update of less than half a unit in its last place is lost, and at the start most are. A
    system that loses less than the eager oracle of its own dtype lies nearer to float32, and is not wrong for it.

    Args:
        losses: of every step.
        oracles: the eager oracle's, in float32 and in the compute dtype.
    """
    if not losses or any(len(oracle) != len(losses) for oracle in oracles):
        return float("inf")
    own, *references = (_smoothed(curve) for curve in (losses, *oracles))
    low, high = np.min(references, axis=0), np.max(references, axis=0)
    return float(np.max(np.maximum(own / high - 1, 1 - own / low).clip(min=0)))


def _smoothed(losses: Sequence[float]) -> np.ndarray:
    window = min(_SMOOTHED_STEPS, len(losses))
    return np.convolve(losses, np.ones(window) / window, "valid")


def judge(
    gate: dict[str, Any], timed: Sequence[dict[str, Any]], oracle_gate: dict[str, Any],
    oracle_curves: Sequence[Sequence[float]], *, dtype: str, gradients: Path, oracle_gradients: Path,
) -> Verdict:  # fmt: skip
    """Hold a system's gate run and all its timed runs against the oracle's.

    Args:
        gate: figures of the run of one step at the probe adapter.
        timed: figures of the timed runs, from the adapter whose B is zero.
        oracle_gate: the oracle's run of one step at the probe adapter.
        oracle_curves: the oracle's losses of the timed steps, in float32 and in the compute dtype.
        dtype: of the computation; sets the bounds.
        gradients: file of the gate run.
        oracle_gradients: file of the oracle's.
    """
    cosine, norm, problems = compare_gradients(gradients, oracle_gradients)
    first = abs(gate["losses"][0] / oracle_gate["losses"][0] - 1) if gate["losses"] else float("inf")
    curve = max((curve_difference(run["losses"], oracle_curves) for run in timed), default=float("inf"))
    means = [float(np.mean(run["losses"]) / np.mean(oracle_curves[0])) - 1 for run in timed if run["losses"]]
    moved = [run["moved"] for run in timed]
    still = [one for one in moved if not (one["moved"] == one["tensors"] == one["trained"]) or one["unknown"]]
    if not cosine >= LEAST_COSINE[dtype]:
        problems.append(f"gradient cosine {cosine:.4f}, at least {LEAST_COSINE[dtype]}")
    if not norm <= NORM_TOLERANCE[dtype]:
        problems.append(f"gradient norm off by {norm:.2%}, at most {NORM_TOLERANCE[dtype]:.1%}")
    if not first <= FIRST_LOSS_TOLERANCE[dtype]:
        problems.append(f"first loss off by {first:.3%}, at most {FIRST_LOSS_TOLERANCE[dtype]:.2%}")
    if not curve <= CURVE_TOLERANCE:
        problems.append(f"losses {curve:.2%} outside the oracles', at most {CURVE_TOLERANCE:.0%}")
    if still:
        problems.append(f"{still[0]['moved']} of {still[0]['tensors']} adapter tensors moved")
    told = f"{min(one['moved'] for one in moved)} of {moved[0]['tensors']}" if moved else "no run"
    return Verdict(not problems, first, cosine, norm, curve, max(means, default=float("inf")), told, problems)
