"""What a run does to its base before it trains: 4 bits, added tokens, the method of adaptation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hone.config.schema import TrainConfig
from hone.data.token_list import read_token_list
from hone.errors import ConfigError
from hone.model.adaptation import ADAPTATIONS, Adaptation, AttachOptions, attach_adaptation
from hone.model.added_tokens import add_tokens, attach_tokens, pieces_of_tokens
from hone.model.device import check_device, check_dtype
from hone.model.load import LoadedModel, load_base
from hone.model.lora import LinearLayer, find_linear_layers, layer_widths
from hone.model.quantize import QuantizedType, count_parameters, quantize_linear_layers
from hone.model.score_head import attach_score_head
from hone.model.select import select_names
from hone.planning.choose import TrainingChoices
from hone.planning.memory import activation_bytes, require_adapter_memory

__all__ = ["NewTokens", "attach_method", "free_bytes", "load_base_as", "read_new_tokens", "require_memory"]

Note = Callable[[str], None]

_LOW_RANK = ("lora", "rslora", "dora", "pissa")  # whose trained values are A and B of each layer


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens that were added to the base's tokenizer.

    Args:
        texts: what they stand for.
        pieces: ids that the base splits each text into.
        first_id: id of the first; the others follow.
    """

    texts: list[str]
    pieces: list[list[int]]
    first_id: int


def load_base_as(
    name: str,
    *,
    quantize: QuantizedType | None,
    home: Path,
    device: str | None,
    dtype: str | torch.dtype | None,
    note: Note,
) -> LoadedModel:
    """Load a base, with its linear layers in 4 bits where that is asked for.

    Args:
        name: any name of a base.
        quantize: the 4-bit type; None leaves the base as it is.
        home: hone's home folder.
        device: chosen where None.
        dtype: chosen where None; 4-bit layers compute in it.
        note: receives sentences for the user.

    Raises:
        HoneError: as :func:`hone.model.load.load_base` and :func:`hone.model.quantize.quantize_linear_layers`.
    """
    if quantize is None:
        return load_base(name, home=home, device=device, dtype=dtype, note=note)
    device = check_device(device)
    # in main memory first: on the device the whole base may not fit
    base = load_base(name, home=home, device="cpu", dtype=check_dtype(dtype, device), note=note)
    count = quantize_linear_layers(base.model, kind=quantize, device=device)
    note(f"{count} linear layers of the base are kept in 4 bits ({quantize})")
    return replace(base, device=device)


def read_new_tokens(config: TrainConfig, base: LoadedModel, note: Note) -> NewTokens | None:
    """Add the tokens that the user names to the base's tokenizer; None where he names none.

    Raises:
        DataError, ConfigError: the list cannot be read, or holds tokens of the base.
    """
    if config.add_tokens is None:
        return None
    texts = read_token_list(config.add_tokens)
    pieces = pieces_of_tokens(base.tokenizer, texts)
    note(f"{len(texts)} tokens added, which the base reads as {sum(map(len, pieces))} pieces")
    return NewTokens(texts, pieces, add_tokens(base.tokenizer, texts))


def attach_method(
    config: TrainConfig, base: LoadedModel, choices: TrainingChoices, new_tokens: NewTokens | None, *, home: Path
) -> Adaptation:
    """Begin the method on the base; the base's weights are read again whenever a method that changes them asks.

    Raises:
        ModelError: the method does not go with the model, or a pattern fits nothing.
        MissingDependencyError: the method is another package's, which is not installed.
    """

    def originals() -> dict[str, Tensor]:
        fresh = load_base(config.model, home=home, device="cpu", dtype=base.dtype, note=lambda _text: None)
        return {name: parameter.detach() for name, parameter in fresh.model.named_parameters()}

    options = AttachOptions(
        rank=choices.rank or 0, alpha=choices.alpha or 0.0, seed=config.seed, layers=config.layers, originals=originals
    )
    adaptation = attach_adaptation(config.adaptation, base.model, options)
    if config.method == "reward":
        attach_score_head(base.model)
    if new_tokens is not None:
        attach_tokens(base.model, new_tokens.pieces, first_id=new_tokens.first_id)
    return adaptation


def free_bytes(config: TrainConfig, base: LoadedModel, available: int | None) -> int | None:
    """Memory for activations: what is free, or what the user's budget leaves; None where the system does not tell.

    Args:
        config: the options.
        base: as loaded.
        available: bytes that this process can still get; None where the system does not tell.

    Raises:
        ConfigError: the budget is less than weights and optimizer take.
    """
    state = ADAPTATIONS[config.adaptation].state_bytes_per_weight * count_parameters(base.model)
    left = None if available is None else max(0, available - state)
    if config.memory_budget is None:
        return left
    tensors = (*base.model.parameters(), *base.model.buffers())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    budget = config.memory_budget - weights - state
    if budget <= 0:
        raise ConfigError(
            f"{config.memory_budget / 1e9:.2f} GB are less than weights ({weights / 1e9:.2f} GB) and optimizer "
            f"({state / 1e9:.2f} GB) take",
            where="--memory-budget",
            remedy="give more, use a smaller base, an adapter in place of full fine-tuning, or --quantize nf4",
        )
    return budget if left is None else min(budget, left)


def require_memory(config: TrainConfig, base: LoadedModel, choices: TrainingChoices, available: int | None) -> None:
    """Refuse a rank whose A and B do not fit into what is free, and activations that do not fit into the user's budget.

    Args:
        config: the options.
        base: as loaded, plain.
        choices: the rank that is used.
        available: bytes that this process can still get; None where the system does not tell.

    Raises:
        ConfigError: they do not fit.
        ModelError: a pattern of ``--layers`` fits nothing.
    """
    if config.memory_budget is not None:
        _require_budget(config, base, choices, available)
    if choices.rank is None or config.adaptation not in _LOW_RANK:
        return
    names = find_linear_layers(base.model)
    if config.layers:
        names = select_names(config.layers, names, what="linear layer")
    layers = [layer for name in names if isinstance(layer := base.model.get_submodule(name), LinearLayer)]
    num_values = choices.rank * sum(sum(layer_widths(layer)) for layer in layers)
    require_adapter_memory(num_values, rank=choices.rank, available_bytes=available, device=base.device)


def _require_budget(config: TrainConfig, base: LoadedModel, choices: TrainingChoices, available: int | None) -> None:
    shape = base.model.config.get_text_config()
    needed = activation_bytes(
        choices.micro_batch_tokens, num_layers=shape.num_hidden_layers, width=shape.hidden_size,
        bytes_per_value=base.dtype.itemsize, recomputed_layers=choices.recompute_layers,
    )  # fmt: skip
    left = free_bytes(config, base, available)
    assert left is not None, "a budget is given"
    if needed > left:
        raise ConfigError(
            f"{choices.micro_batch_tokens} tokens at once take about {needed / 1e9:.2f} GB with "
            f"{choices.recompute_layers} of {shape.num_hidden_layers} layers computed again, and {left / 1e9:.2f} GB "
            "are left beside the weights",
            where="--memory-budget",
            remedy="give more, shorten the rows with --max-length, or leave --micro-batch-tokens and "
            "--recompute-layers to hone",
        )
