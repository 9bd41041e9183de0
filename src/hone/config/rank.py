"""The options of ``hone rank``: whose answers, to which prompts, and who compares them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from hone.config.option_types import Count, Names, Seed, Text
from hone.config.schema import EvaluateConfig
from hone.config.values import name_list, no_truth_value

__all__ = ["RANK_OPTIONS", "RankConfig"]

_Temperatures = Annotated[
    tuple[Annotated[float, Field(ge=0, le=5)], ...], BeforeValidator(name_list), Field(min_length=1)
]

RANK_OPTIONS = (
    "version", "prompts", "against", "n", "rater", "temperatures", "max_new_tokens", "system", "limit", "seed",
    "ask", "report", "device", "dtype",
)  # fmt: skip
"""Fields that the command has."""


class RankConfig(EvaluateConfig):
    """Options of ``hone rank``; those of ``hone evaluate`` mean what they mean there."""

    version: Text = Field(
        description="Whose answers: a version (support, support@3), an alias, a run's folder or a base."
    )
    prompts: Text | None = Field(
        None,
        description="File of prompts: a line of text each (.txt), or rows as training reads them, also with a prompt "
        "alone; the version's held-out rows unless given.",
    )
    against: Names | None = Field(
        None,
        description="Who else answers: versions or bases, with commas between, or none; the version's base unless "
        "given.",
    )
    n: Annotated[int, BeforeValidator(no_truth_value), Field(ge=2, le=9)] = Field(
        2, description="Answers to each prompt, as many from each who answers."
    )
    rater: Text | None = Field(None, description="Who compares; your user's name unless given.")
    temperatures: _Temperatures = Field(
        (0.7, 1.0),
        description="Temperatures of the sampling, with commas between; each who answers has them in turn.",
    )
    max_new_tokens: Count = Field(256, description="Longest answer in tokens.")
    system: str | None = Field(
        None, description="The system message, empty for none; the one that all training rows share unless given."
    )
    seed: Seed = Field(0, description="Seed of the sampling and of the orders shown.")
    limit: Count | None = Field(None, description="Use the first prompts only, this many of them.")
    ask: bool = Field(True, description="Ask for comparisons; --no-ask only makes the answers, as for the API.")
    report: bool = Field(False, description="Ask nothing, and show what the comparisons so far say.")
