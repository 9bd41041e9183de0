"""What writing answers computes: by hand, against what hone's generator does, and against the tensors of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from hone.model.generate import SamplingSettings, generate
from hone.planning.decoding import Decoding, decoding_bytes, decoding_of, decoding_seconds
from hone.planning.shape import shape_of
from tests.planning.unit_rates import unit_rates
from tests.tiny import tiny_model

SHAPE = shape_of(tiny_model("llama"), context_length=256)
STOPS = tuple(range(0, 352, 9))


def test_sums_by_hand() -> None:
    """Two prompts of 5 and 3 tokens, answered twice each, read once: two rows of 5 with padding."""
    prompts = [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (6, 7, 8), (6, 7, 8)]
    found = decoding_of(prompts, [4, 1, 2, 3], longest=8)
    assert (found.read, found.read_pairs, found.read_rows, found.read_passes) == (10, 50, 2, 1)
    assert found.drawn == 10
    assert found.written == 3 + 0 + 1 + 2
    assert found.passes == 3, "the last token of the longest answer is drawn, and never computed"
    # each pass sees the five places of the prompt, and the answer so far with its newest token
    assert found.positions == (6 + 7 + 8) + (6) + (6 + 7)


def test_an_opening_that_all_share_is_read_once() -> None:
    opening = tuple(range(20))
    found = decoding_of([(*opening, 30, 31), (*opening, 40)], [1, 1], longest=8)
    assert (found.read, found.read_passes) == (20 + 2 * 2, 2)
    assert (found.passes, found.written) == (0, 0)


def test_long_rows_are_decoded_in_smaller_batches() -> None:
    """64 rows of at most 160 tokens stand together; of more, 32."""
    prompts = [(number, *range(10)) for number in range(8) for _ in range(8)]
    short, long = (decoding_of(prompts, [9] * 64, longest=longest) for longest in (149, 150))
    assert (short.read_passes, short.passes) == (1, 8)
    assert (long.read_passes, long.passes) == (2, 16)
    assert short.written == long.written == 64 * 8


@pytest.mark.parametrize("shared", [0, 18])
def test_the_generator_does_what_is_counted(shared: int) -> None:
    """Every forward pass of the generator, by its tokens and the keys that they see."""
    model = tiny_model("llama")
    lengths = [3, 3, 3, 7, 7, 7, 12, 12, 12]
    prompts = [(*range(shared), *(100 + 10 * length + at for at in range(length))) for length in lengths]
    counted, answers = _counted(model, prompts, longest=24)
    written = [len(one.ids) + one.stopped for one in answers]
    assert len(set(written)) > 2, "answers of many lengths"
    assert decoding_of(prompts, written, longest=24) == replace(counted, drawn=sum(written))


def _counted(model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, longest: int) -> tuple[Decoding, list[Any]]:
    found = Decoding()

    def before(_module: Any, _given: Any, named: Any) -> None:
        nonlocal found
        rows, tokens = named["input_ids"].shape
        seen = named["past_key_values"].get_seq_length() + tokens
        if tokens > 1 or not named["past_key_values"].get_seq_length():
            found += Decoding(rows * tokens, rows * tokens * seen, rows, 1)
        else:
            found += Decoding(written=rows, passes=1, positions=rows * seen)

    hook = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        answers = generate(
            model, prompts, stop_ids=STOPS, seeds=range(len(prompts)),
            settings=SamplingSettings(max_new_tokens=longest, temperature=1.0),
        )  # fmt: skip
    finally:
        hook.remove()
    return found, answers


def test_the_cache_takes_the_bytes_of_its_tensors() -> None:
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.ones(6, 30, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    a_layer = held / len(cache.layers)
    logits = 6 * 352 * (4 + 12)
    prompts = [(1,) * 10] * 6
    assert decoding_bytes(SHAPE, prompts, longest=20, bytes_per_value=4) == held + a_layer + logits


def test_memory_is_that_of_the_largest_batch() -> None:
    """100 rows in two batches, the longer prompts first: 64 of them take more than 36 short ones."""
    prompts = [(1,) * 20] * 64 + [(1,) * 4] * 36
    alone = decoding_bytes(SHAPE, prompts[:64], longest=20, bytes_per_value=2)
    assert decoding_bytes(SHAPE, prompts, longest=20, bytes_per_value=2) == alone


WORK = Decoding(
    read=10, read_pairs=50, read_rows=2, read_passes=1, written=6, passes=3, positions=40, drawn=10
)  # fmt: skip
WEIGHTS = 2 * (SHAPE.linear_values + SHAPE.head_values)


@pytest.mark.parametrize(
    ("rate", "read", "written"),
    [
        ({"narrow_per_second": 2.0, "wide_per_second": 2.0}, 10 * (SHAPE.linear_values + 100),
         6 * (SHAPE.linear_values + 100)),
        ({"head_per_second": 2.0}, 2 * SHAPE.head_values, 6 * SHAPE.head_values),
        ({"attention_per_second": 4.0}, 50 * 64 * 2, 0),
        # a cached token has keys and values of width 32 in two layers; a pass copies the cache and reads it
        ({"bytes_per_second": 1.0}, WEIGHTS, 3 * WEIGHTS + 3 * 40 * 2 * 2 * 32 * 2),
        ({"seconds_a_layer": 3.0}, 2, 2 * 3),
        ({"seconds_a_drawn_value": 0.5}, 0, 10 * 352 * 0.5),
    ],
)  # fmt: skip
def test_seconds_by_hand(rate: dict[str, float], read: float, written: float) -> None:
    seconds = decoding_seconds(SHAPE, WORK, unit_rates(**rate), adapter_values=100, is_quantized=False)
    assert seconds["reading prompts"] == pytest.approx(read, abs=1e-9)
    assert seconds["writing answers"] == pytest.approx(written, abs=1e-9)


def test_four_bits_are_unpacked_in_every_pass() -> None:
    plain, packed = (
        decoding_seconds(SHAPE, WORK, unit_rates(bytes_per_second=1.0), adapter_values=0, is_quantized=quantized)
        for quantized in (False, True)
    )
    assert packed["writing answers"] - plain["writing answers"] == pytest.approx(3 * 2.5 * SHAPE.linear_values)


def test_sums_add_and_scale() -> None:
    assert WORK.times(2) == WORK + WORK
