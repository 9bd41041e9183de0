"""The options of ``hone proof``: whose proof, or the rows and the base to check before a run."""

from __future__ import annotations

from pydantic import Field

from hone.config.option_types import Text
from hone.config.schema import TrainConfig

__all__ = ["PROOF_OPTIONS", "ProofConfig"]

PROOF_OPTIONS = (
    "version", "data", "model", "eval", "map", "adaptation", "rank", "batch_size", "max_length", "micro_batch_tokens",
    "reference_path", "device", "dtype",
)  # fmt: skip
"""Those of a run's options that its proof before training depends on, and the version."""


class ProofConfig(TrainConfig):
    """Options of ``hone proof``; those of a run mean what they mean there."""

    version: Text | None = Field(
        None, description="Whose proof: a version (support, support@3), an alias, or a run's folder; or give --data."
    )
    data: Text | None = Field(  # type: ignore[assignment]  # a run always has rows, a version's proof names none
        None, description="Training rows to check before a run, in place of a version."
    )
    evaluation_data: Text | None = Field(
        None, alias="eval", description="With --data, a file of held-out rows; rows are set aside unless given."
    )
