"""The options of ``hone plan``: those of ``hone train``, and where and at what price to plan for."""

from __future__ import annotations

from pydantic import Field

from hone.config.option_types import Seeds, ShareOrCount, Text
from hone.config.schema import SEEDS_HELP, TrainConfig

__all__ = ["PlanConfig"]


class PlanConfig(TrainConfig):
    """Options of ``hone plan``."""

    evaluation_data: Text | None = Field(
        None, alias="eval", description="File of held-out rows, as for hone run; its rows are not trained on."
    )
    held_out: ShareOrCount | None = Field(
        None,
        description="Rows that hone run sets aside: a share (0.2), a number (40), or 0 to plan for hone train; chosen "
        "from the number of rows unless given.",
    )
    target_device: Text | None = Field(
        None, description="Plan for a machine of the table, as h100, in place of this one."
    )
    rate: Text | None = Field(None, description="Price of the machine, as 2.5/h; the table's unless given.")
    seeds: Seeds = Field(1, description=SEEDS_HELP)
    probe: bool = Field(
        True, description="Load the base and time two steps (of reinforcement one), where that was not done before."
    )
