"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

__all__ = ["linear_warmup_decay"]


def linear_warmup_decay(step: int, *, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Rise linearly to ``peak`` over the warm-up, then fall linearly to zero just after the last step.

    Args:
        step: the optimizer step about to be taken, from 1.
        total_steps: steps of the whole run.
        warmup_steps: steps until the peak is reached; 0 starts at the peak.
        peak: highest learning rate.

    Returns:
        The learning rate of ``step``; never 0 for a step of the run, so that none is wasted.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (total_steps - step + 1) / max(1, total_steps - warmup_steps)
