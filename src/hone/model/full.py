"""Full and partial fine-tuning: the base's own weights are trained, all of them or those that are named.

A bfloat16 weight has 8 bits of precision, which a small step of the optimizer does not reach: 1 + 0.001 is 1. So the
optimizer works on float32 copies, and after each step the model's weights are these copies, rounded. A float32 model is
trained in place. Memory per trained weight, in bytes: 2 for the model (4 in float32), 4 for the copy (none in
float32), 4 for the gradient, 8 for AdamW's moments, and 4 for the best weights where there is a validation.

The base is not kept beside them. While it is to answer, its tensors are put in the trained ones' place: read again from
their files in training, and mapped from them when a version is loaded, which on a CPU takes no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.switch import Switch

__all__ = ["TrainedWeights"]

_NAME = "hone_trained_weights"
Originals = Callable[[], Mapping[str, Tensor]]


class TrainedWeights(Switch):
    """Parameters of a model that are trained, with the way back to the base's.

    Args:
        model: gets this switch as a child.
        names: parameters of ``model``; each is a floating-point tensor.
        originals: gives the base's tensors by name, those of ``names`` at least, when the base is to answer.

    Raises:
        ModelError: a tensor is stored in integers, as those of a quantised base, and cannot be trained.
    """

    def __init__(self, model: PreTrainedModel, names: Iterable[str], *, originals: Originals) -> None:
        super().__init__()
        every = dict(model.named_parameters())
        # plain dicts: these tensors belong to the model, and are not to be listed twice
        self.weights: dict[str, nn.Parameter] = {name: every[name] for name in names}
        self.copies: dict[str, nn.Parameter] = {}
        self._originals = originals
        self._tuned: dict[str, Tensor] = {}
        if integers := [name for name, weight in self.weights.items() if not weight.is_floating_point()]:
            raise ModelError(
                f"{len(integers)} of {len(self.weights)} tensors are stored in integers and cannot be trained",
                details=integers,
                remedy="train an adapter on a quantised base, or use the base as it is",
            )
        model.add_module(_NAME, self)

    def train_in_place(self) -> None:
        """Make the weights trainable, and nothing else of the model: through float32 copies unless they are float32."""
        for name, weight in self.weights.items():
            weight.requires_grad_(True)
            if weight.dtype == torch.float32:
                self.copies[name] = weight
                continue
            copy = self.copies[name] = nn.Parameter(weight.detach().float())
            hook = _handing_gradients_to(copy)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the float32 copies into the model, after an optimizer step."""
        for name, copy in self.copies.items():
            if copy is not self.weights[name]:
                self.weights[name].copy_(copy)

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put loaded tensors in the weights' place; not copied where device and dtype are the model's already."""
        for name, weight in self.weights.items():
            weight.data = tensors[name].to(weight.device, weight.dtype)

    def turn(self, enabled: bool) -> None:
        """Exchange the tuned tensors and the base's, one after the other."""
        # off the CPU the tensors that are not in use wait in main memory
        if enabled:
            for name, weight in self.weights.items():
                weight.data = self._tuned.pop(name).to(weight.device)
        else:
            originals = self._originals()
            for name, weight in self.weights.items():
                self._tuned[name] = weight.data.cpu()
                weight.data = originals[name].detach().to(weight.device, weight.dtype)

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved away from the base, finite) for each trained tensor by name."""
        originals = self._originals()
        trained = self.copies or self.weights
        return {
            name: (
                not torch.equal(tensor.detach().cpu().float(), originals[name].detach().cpu().float()),
                bool(torch.isfinite(tensor).all()),
            )
            for name, tensor in trained.items()
        }

    def stored(self) -> dict[str, Tensor]:
        """The tensors by name, in the model's dtype."""
        return {name: weight.detach().cpu().contiguous() for name, weight in self.weights.items()}


def _handing_gradients_to(copy: nn.Parameter) -> Callable[[Tensor], None]:
    """Gradients of micro-batches are summed in float32, by the copy."""

    def hand_over(weight: Tensor) -> None:
        assert weight.grad is not None, "the hook runs when a gradient has been accumulated"
        gradient = weight.grad.float()
        copy.grad = gradient if copy.grad is None else copy.grad + gradient
        weight.grad = None

    return hand_over
