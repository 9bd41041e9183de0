"""Numbers of reinforcement learning: how many prompts and answers a step has, and how long answers may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["POLICY_EPOCHS", "POLICY_RATE_FACTOR", "PROMPTS_A_STEP", "ROLLOUT_STEPS", "choose_rollout_tokens"]

POLICY_RATE_FACTOR = 0.5
"""Learning rate over that of supervised fine-tuning."""
POLICY_EPOCHS: Mapping[str, int] = {"grpo": 1, "rloo": 1, "ppo": 2, "raft": 1, "distill": 1}
"""Optimizer steps over the same answers; PPO's clipping is for more than one (Schulman et al. 2017)."""
PROMPTS_A_STEP = 8
"""Prompts that a step answers."""
ROLLOUT_STEPS = 64
"""Steps that write answers of their own."""
_TOKENS, _FEWEST_TOKENS, _MOST_TOKENS = 128, 16, 512


def choose_rollout_tokens(answer_tokens: Sequence[int]) -> tuple[int, str]:
    """The longest answer, half as long again as the longest reference answer, and the reason.

    Args:
        answer_tokens: of the reference answers; empty where rows have none.
    """
    if not answer_tokens:
        return _TOKENS, "rows have no reference answers to tell by"
    longest = max(answer_tokens)
    value = min(_MOST_TOKENS, max(_FEWEST_TOKENS, math.ceil(1.5 * longest)))
    return value, f"half as long again as the longest reference answer ({longest} tokens)"
