"""The kinds of values that options have, each with its rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from hone.config.values import byte_size, column_mapping, name_list, no_truth_value, share_or_count
from hone.types import ArmName

__all__ = [
    "Arms",
    "Bytes",
    "ColumnMapping",
    "Count",
    "Count0",
    "Device",
    "Dtype",
    "Names",
    "NotNegative",
    "Positive",
    "Probes",
    "Seed",
    "Seeds",
    "Share",
    "ShareOrCount",
    "Text",
]

_MOST_SEEDS = 100

Count = Annotated[int, BeforeValidator(no_truth_value), Field(ge=1)]
Count0 = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(byte_size), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0, lt=2**32)]
Seeds = Annotated[int, BeforeValidator(no_truth_value), Field(ge=1, le=_MOST_SEEDS)]
Probes = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0, le=30)]
Positive = Annotated[float, BeforeValidator(no_truth_value), Field(gt=0)]
NotNegative = Annotated[float, BeforeValidator(no_truth_value), Field(ge=0)]
Share = Annotated[float, BeforeValidator(no_truth_value), Field(ge=0, lt=1)]
ShareOrCount = Annotated[float | int, PlainValidator(share_or_count)]
Text = Annotated[str, Field(min_length=1)]
Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]
Dtype = Literal["float32", "bfloat16"]
Names = Annotated[tuple[Text, ...], BeforeValidator(name_list), Field(min_length=1)]
Arms = Annotated[tuple[ArmName, ...], BeforeValidator(name_list), Field(min_length=1)]
ColumnMapping = Annotated[dict[str, str], BeforeValidator(column_mapping)]
