"""The options of ``hone models continue``: which version goes on, with which rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from hone.config.option_types import Count, ShareOrCount, Text
from hone.config.schema import TrainConfig
from hone.config.values import share_or_count

__all__ = ["CONTINUE_OPTIONS", "ContinueConfig"]

CONTINUE_OPTIONS = (
    "version", "data", "replay", "without", "map", "allow_few_rows", "held_out", "epochs", "max_steps", "batch_size",
    "learning_rate", "validation", "max_new_tokens", "seed", "device", "dtype",
)  # fmt: skip
"""Those of a run's options that new rows ask for; the others are those that the version was made with."""


class ContinueConfig(TrainConfig):
    """Options of ``hone models continue``; those of a run mean what they mean there."""

    version: Text = Field(description="The version that goes on, as support@3, or an alias.")
    data: Text | None = Field(  # type: ignore[assignment]  # with --without alone there are no new rows
        None, description="The new rows, in any format of hone; may be left out with --without."
    )
    held_out: Annotated[float | int, PlainValidator(share_or_count), Field(gt=0)] | None = Field(
        None, description="New rows set aside for the comparison: a share (0.2) or a number (40); chosen unless given."
    )
    max_new_tokens: Count | None = Field(None, description="Longest answer in tokens; the version's unless given.")
    replay: ShareOrCount | None = Field(
        None,
        description="Old training rows to train on again beside the new ones: a share of them (0.3), a number (40), or "
        "0 for none; as many as there are new ones unless given.",
    )
    without: Text | None = Field(
        None,
        description="Rows to forget: a file that holds them, or numbers of rows of the version's data, as 12,40. The "
        "version is then trained anew from the base, without them.",
    )
