"""The options of ``hone chat`` and ``hone generate``: who answers, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from hone.config.option_types import Count, Device, Dtype, NotNegative, Positive, Seed, Text
from hone.config.schema import DEVICE_HELP, DTYPE_HELP, OPTION_RULES, report_together

__all__ = ["ChatConfig", "GenerateConfig"]


class ChatConfig(BaseModel):
    """Options of ``hone chat``."""

    model_config = OPTION_RULES
    _problems = model_validator(mode="wrap")(report_together)

    model: Text = Field(description="Who answers: a version (support, support@3), an alias, a run's folder or a base.")
    system: str | None = Field(
        None, description="The system message, empty for none; the one that all training rows share unless given."
    )
    temperature: NotNegative = Field(0.0, description="0 takes the likeliest token; higher values vary more.")
    top_p: Annotated[Positive, Field(le=1)] = Field(
        1.0, description="Sample from the likeliest tokens that together have this probability."
    )
    seed: Seed = Field(0, description="Seed of the sampling; the same seed gives the same answer.")
    max_new_tokens: Count = Field(512, description="Longest answer in tokens.")
    base: bool = Field(False, description="Let the version's base answer: beside the version in chat, else instead.")
    device: Device | None = Field(None, description=DEVICE_HELP)
    dtype: Dtype | None = Field(None, description=DTYPE_HELP)


class GenerateConfig(ChatConfig):
    """Options of ``hone generate``: those of ``hone chat``, and the one message."""

    prompt: Text = Field(description="The user's message; - reads it from standard input.")
    best_of: Count = Field(1, description="Write this many answers, and give the one that --reward scores highest.")
    reward: Text | None = Field(
        None, description="With --best-of, what scores answers: a reward model's version, alias or run's folder."
    )
