"""Recomputed layers: the same loss and gradients to the last bit, less kept, and the model as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hone.data.pack import pack
from hone.errors import ModelError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.fused_lora import fused_lora_enabled
from hone.model.lora import adapter_parameters
from hone.model.recompute import decoder_layers, recompute_enabled
from tests.tiny import FAMILIES, attach_random_adapter, tiny_model, token_rows

ROWS = token_rows([19, 6, 1, 33])


def _gradients(
    family: str, num_layers: int, *, packed: bool, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor], int]:
    """(log-probabilities, gradients, bytes kept for the backward pass)."""
    model = tiny_model(family).to(dtype)  # type: ignore[arg-type]
    attach_random_adapter(model)
    parameters = adapter_parameters(model)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    forward = packed_logprobs if packed else padded_logprobs
    with packed_attention_enabled(model), recompute_enabled(model, num_layers):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs = forward(model, pack(ROWS)) if packed else _plain(model)
        (-logprobs.mean()).backward()
    return logprobs.detach(), {name: p.grad for name, p in parameters.items() if p.grad is not None}, sum(kept.values())


def _plain(model: torch.nn.Module) -> Tensor:
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return padded_logprobs(model, pack(ROWS))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "reference"])
def test_loss_and_gradients_are_the_same_to_the_last_bit(family: str, packed: bool) -> None:
    plain, wanted, whole = _gradients(family, 0, packed=packed, dtype=torch.float32)
    sizes = [whole]
    for num_layers in (1, 2):
        found, gradients, size = _gradients(family, num_layers, packed=packed, dtype=torch.float32)
        assert torch.equal(found, plain)
        assert gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            assert torch.equal(gradient, wanted[name]), name
        sizes.append(size)
    assert sizes[0] > sizes[1] > sizes[2], "each recomputed layer keeps less"


def test_bfloat16_too() -> None:
    plain, wanted, _ = _gradients("llama", 0, packed=True, dtype=torch.bfloat16)
    found, gradients, _ = _gradients("llama", 2, packed=True, dtype=torch.bfloat16)
    assert torch.equal(found, plain)
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def test_the_model_is_as_it_was_afterwards() -> None:
    model = tiny_model("gemma2")
    layers, names = list(decoder_layers(model)), [name for name, _ in model.named_parameters()]
    with recompute_enabled(model, 2):
        assert all(new is not old for new, old in zip(decoder_layers(model), layers, strict=True))
    assert all(new is old for new, old in zip(decoder_layers(model), layers, strict=True))
    assert [name for name, _ in model.named_parameters()] == names


def test_a_model_without_such_a_list_is_refused_only_where_it_is_needed() -> None:
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with recompute_enabled(model, 0):
        pass
    with pytest.raises(ModelError, match="no one list of 7 decoder layers"), recompute_enabled(model, 1):
        pass


def test_nothing_that_was_computed_again_stays_after_the_backward_pass() -> None:
    """Recomputation ends a layer inside of its last product; what the fused layers remember must not keep it alive."""
    model = tiny_model("llama")
    attach_random_adapter(model)
    with fused_lora_enabled(model) as groups, packed_attention_enabled(model), recompute_enabled(model, 2):
        packed_logprobs(model, pack(ROWS)).sum().backward()
        assert groups
        assert [group for group in groups if group._input is not None or group._outputs] == []
