"""One forward pass over the new tokens of many rows, and the check that it gives the model's own logits.

Shape legend: B places whose logits are wanted, L tokens of the check, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.row_attention import RowPlan, RowSpan
from hone.model.row_cache import RowCache

__all__ = ["check_row_path", "plain_logits", "row_logits"]

_PROBE = (3, 14, 15, 92, 65, 35, 89, 79)


@torch.inference_mode()
def plain_logits(model: PreTrainedModel) -> Tensor:
    """Logits [L, V], float32, of the check's tokens by the model itself; before anything of it is replaced."""
    size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[token % size for token in _PROBE]], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float()


def row_logits(model: PreTrainedModel, ids: Sequence[int], plan: RowPlan, places: Sequence[int]) -> Tensor:
    """Logits [B, V], in the model's dtype, at ``places`` of the new tokens.

    Args:
        model: see :func:`hone.model.row_attention.use_row_attention`.
        ids: the new tokens of all rows.
        plan: says which are whose.
        places: indices into ``ids``; of token 0 where there are none, and not to be read.
    """
    device = model.device
    kept = torch.tensor(places or [0], device=device)
    output = model(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=plan.positions_T.unsqueeze(0),
        rows=plan,
        logits_to_keep=kept,
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


@torch.inference_mode()
def check_row_path(model: PreTrainedModel, cache: RowCache, expected_LV: Tensor) -> None:
    """Hold this path against the model's own on a few tokens, read in pieces.

    Args:
        model: see :func:`row_logits`.
        cache: has room for one more row.
        expected_LV: see :func:`plain_logits`.

    Raises:
        ModelError: the logits are others.
    """
    slot = cache.add(len(_PROBE))
    found = []
    for start, count in ((0, 3), (3, 1), (4, 4)):
        plan = RowPlan([RowSpan(slot, count)], model.device)
        ids = [token % expected_LV.shape[1] for token in _PROBE[start : start + count]]
        found.append(row_logits(model, ids, plan, list(range(count))))
        plan.advance()
    cache.remove(slot)
    difference = (torch.cat(found).float() - expected_LV).abs().max() / expected_LV.abs().max()
    bound = max(1e-3, 8 * torch.finfo(model.dtype).eps)
    if not difference <= bound:
        raise ModelError(
            f"{type(model).__name__} gives other logits when rows are answered beside each other: they differ "
            f"by {float(difference):.2g} of the largest, and {bound:.2g} is rounding",
            why="the server would answer otherwise than hone generate",
            remedy="use hone generate for this model",
        )
