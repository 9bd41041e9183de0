"""The options of ``hone reward score``: those of ``hone evaluate`` that say who, which rows and where."""

from __future__ import annotations

from pydantic import Field

from hone.config.schema import EvaluateConfig

__all__ = ["REWARD_OPTIONS", "RewardConfig"]

REWARD_OPTIONS = ("version", "data", "limit", "map", "device", "dtype")
"""Fields that the command has."""


class RewardConfig(EvaluateConfig):
    """Options of ``hone reward score``."""

    version: str = Field(
        min_length=1, description="The reward model: a version (judge, judge@3), an alias, or a run's folder."
    )
    data: str = Field(min_length=1, description="Rows with answers, in any format that training reads.")
