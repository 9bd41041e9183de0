"""What the machine's matrix products can do, measured in the same run, and what training needs of it.

``python -m side_by_side.roofline RESULT.json THREADS WIDTH FEED_FORWARD_WIDTH SECONDS`` measures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TOKENS = 1024  # rows of the product at the model's own widths


def flops_per_token(model: Mapping[str, Any], workload: Mapping[str, Any]) -> float:
    """FLOPs that LoRA training needs for each real token, nothing shared and nothing recomputed.

    ``4 (Nb + s Nh) + 6 p + 3.5 a``: forward and the gradient of the input for the frozen matrices (Nb) and, for the
    share s of supervised tokens, the head (Nh); forward and both gradients for the adapter (p); the causal attention's
    forward (a) and 2.5 times that for its backward. What is shared between rows is counted for each row, so that a
    system that computes a common prefix once can pass 100%.
    """
    attention = 4 * model["attention_width"] * model["layers"] * workload["mean_context"]
    dense = model["matmul_parameters"] + workload["supervised_share"] * model["head_parameters"]
    return float(4 * dense + 6 * model["adapter_parameters"] + 3.5 * attention)


def product_flops(dtype: str, rows: int, inner: int, columns: int, seconds: float) -> float:
    """FLOP/s of ``[rows, inner] x [columns, inner]^T``: the best of repeated calls for about ``seconds``."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator).to(getattr(torch, dtype))
    right = torch.randn(columns, inner, generator=generator).to(getattr(torch, dtype))
    best, until = float("inf"), time.perf_counter() + seconds
    torch.nn.functional.linear(left, right)
    while True:
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended > until:
            return 2 * rows * inner * columns / best


def main() -> None:
    """Measure both dtypes, large and square and at the model's widths."""
    import torch

    result, threads, width, feed_forward, seconds = sys.argv[1], *map(float, sys.argv[2:])
    torch.set_num_threads(int(threads))
    side = 2048 if seconds >= 1 else 256
    figures: dict[str, Any] = {}
    for dtype in ("bfloat16", "float32"):
        square = product_flops(dtype, side, side, side, seconds)
        shaped = product_flops(dtype, _TOKENS, int(width), int(feed_forward), seconds)
        figures[dtype] = {"roofline": max(square, shaped), "square": square, "model_shape": shaped}
    Path(result).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
