"""Invariant 11: merged weights answer as the adapter did; a merge that is wrong is caught."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import adapted_layers
from hone.model.low_rank import LowRankAdaptation
from hone.proof.invariant import Invariant
from hone.proof.postflight import check_merged, stored_rows_logprobs, write_probe
from tests.proof.subjects import FAMILIES, subject
from tests.tiny import attach_random_adapter

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def merged(
    family: str, folder: Path, dtype: torch.dtype, *, scale: float = 1.0, layers: int | None = None
) -> Invariant:
    """Invariant 11 where the merge scales the update wrongly, or takes only some layers."""
    one = subject(family)
    model: PreTrainedModel = one.model.to(dtype)
    attach_random_adapter(model)
    with packed_attention_enabled(model):
        write_probe(folder / "probe", model, one.sequences[:3], forward=packed_logprobs)
        tuned_S = stored_rows_logprobs(folder / "probe", model, forward=packed_logprobs)
    for index, (_, layer) in enumerate(adapted_layers(model)):
        layer.scaling *= scale
        if layers is not None and index >= layers:
            with torch.no_grad():
                layer.lora_B.zero_()
    LowRankAdaptation(model, title="LoRA").merge()
    with packed_attention_enabled(model):
        return check_merged(folder / "probe", model, tuned_S=tuned_S, forward=packed_logprobs)


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_merge_holds(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    found = merged(family, tmp_path, dtype)
    assert (found.number, found.holds) == (11, True)
    assert found.measured < (1e-5 if dtype == torch.float32 else 0.1)
    assert "merged in memory as " + str(dtype).removeprefix("torch.") in found.checked


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, -1.0])
def test_a_merge_with_the_wrong_scale_is_caught(family: str, scale: float, dtype: torch.dtype, tmp_path: Path) -> None:
    assert not merged(family, tmp_path, dtype, scale=scale).holds


@BOTH
def test_a_merge_of_some_layers_is_caught(dtype: torch.dtype, tmp_path: Path) -> None:
    assert not merged("llama", tmp_path, dtype, layers=7).holds
