"""The options of ``hone plan``: those of ``hone train``, and where and at what price to plan for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainValidator

from hone.config.schema import MOST_SEEDS, SEEDS_HELP, TrainConfig
from hone.config.values import no_truth_value, share_or_count

__all__ = ["PlanConfig"]

_Text = Annotated[str, Field(min_length=1)]


class PlanConfig(TrainConfig):
    """Options of ``hone plan``."""

    evaluation_data: _Text | None = Field(
        None, alias="eval", description="File of held-out rows, as for hone run; its rows are not trained on."
    )
    held_out: Annotated[float | int, PlainValidator(share_or_count)] | None = Field(
        None,
        description="Rows that hone run sets aside: a share (0.2), a number (40), or 0 to plan for hone train; chosen "
        "from the number of rows unless given.",
    )
    target_device: _Text | None = Field(
        None, description="Plan for a machine of the table, as h100, in place of this one."
    )
    rate: _Text | None = Field(None, description="Price of the machine, as 2.5/h; the table's unless given.")
    seeds: Annotated[int, BeforeValidator(no_truth_value), Field(ge=1, le=MOST_SEEDS)] = Field(
        1, description=SEEDS_HELP
    )
    probe: bool = Field(True, description="Load the base and time two steps, where that was not done before.")
