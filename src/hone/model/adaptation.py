"""What may be trained of a model, and how: the one table of methods, and the one place where a method is chosen.

Above this module nobody asks which method it is: a run attaches one by its name, gets an :class:`Adaptation`, and hands
its parameters to the loop. Loading needs no name, because the files tell what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import ModelError, StorageError
from hone.model.adapter_files import adapter_kind, check_seal, load_adapter
from hone.model.dora import DoraLinear
from hone.model.full import Originals
from hone.model.lora import LoraLinear, attach_adapter, find_linear_layers
from hone.model.low_rank import LowRankAdaptation
from hone.model.peft_methods import attach_peft, load_peft
from hone.model.pissa import PissaLinear
from hone.model.select import select_names
from hone.model.weight_files import CHANGED_WEIGHTS_FILE, attach_weights, load_changed_weights, load_whole_model
from hone.types import AdaptationName

__all__ = ["ADAPTATIONS", "Adaptation", "AdaptationMethod", "AttachOptions", "attach_adaptation", "load_adaptation"]


class Adaptation(Protocol):
    """Something trained on or in a model. While it is switched off (``adapter_disabled``), the base answers."""

    model: PreTrainedModel
    summary: str
    num_parts: int
    has_strength: bool

    def parameters(self) -> dict[str, nn.Parameter]:
        """The tensors that the optimizer works on by name, float32."""

    def rate_factors(self, ratio: float) -> dict[str, float]:
        """Factors on the learning rate of single parameters; 1 for those that are not named.

        Args:
            ratio: of LoRA+.
        """

    def refresh(self) -> None:
        """Bring into the model what follows from the parameters; after each change of them."""

    def set_strength(self, strength: float) -> None:
        """Scale what was trained; only where ``has_strength``. It is saved so.

        Args:
            strength: 0 is the base, 1 what was trained.
        """

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved away from the base, finite) for each part that is trained, by name."""

    def save(
        self,
        folder: Path,
        *,
        tokenizer: PreTrainedTokenizerBase,
        base_name: str,
        notes: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write files that :func:`load_adaptation` reads.

        Args:
            folder: made where it is missing.
            tokenizer: written where the files are a whole model.
            base_name: recorded where the format has a place for it.
            notes: what hone needs to load it safely; stands in ``hone.json``.
            files: content of further files beside it, by name.

        Raises:
            ModelError: a value is not finite; nothing is written.
            StorageError: no space or no permission.
        """

    def merge(self) -> None:
        """Make the model a plain one that answers as it does now."""


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """What a method may need to begin.

    Args:
        rank: R of methods that have one; 0 for others.
        alpha: their scaling numerator.
        seed: of what they draw.
        layers: patterns of the layers or parameters; None for all that the method takes.
        originals: gives the base's tensors again, by parameter name.
    """

    rank: int
    alpha: float
    seed: int
    layers: tuple[str, ...] | None
    originals: Originals


@dataclass(frozen=True, slots=True)
class AdaptationMethod:
    """One way to adapt a model.

    Args:
        title: how it is called in sentences.
        attach: begins it on a frozen base.
        has_rank: whether rank and alpha mean something to it.
        alpha_of_rank: alpha where the user gives none; None for twice the rank.
        alpha_reason: why that alpha, in a clause.
        rate_factor: its learning rate over LoRA's, where the user gives none.
        needs_layers: whether ``layers`` must be given.
        state_bytes_per_weight: memory that gradients, optimizer and best weights take for each weight of the base, at
            most; an adapter's are not worth counting.
    """

    title: str
    attach: Callable[[PreTrainedModel, AttachOptions], Adaptation]
    has_rank: bool = True
    alpha_of_rank: Callable[[int], float] | None = None
    alpha_reason: str = "twice the rank"
    rate_factor: float = 1.0
    needs_layers: bool = False
    state_bytes_per_weight: int = 0


def attach_adaptation(name: AdaptationName, model: PreTrainedModel, options: AttachOptions) -> Adaptation:
    """Begin a method on ``model``, which is changed in place and equals its base at first.

    Args:
        name: a key of :data:`ADAPTATIONS`.
        model: the base, frozen.
        options: rank, layers and so on.

    Raises:
        ModelError: it cannot be put on this model; or a pattern fits nothing.
    """
    method = ADAPTATIONS[name]
    if method.needs_layers and not options.layers:
        raise ModelError(
            f"{method.title} needs the names of what is to be trained",
            where="--layers",
            remedy="name layers or tensors, as --layers 'model.layers.29,*.norm.weight'",
        )
    return method.attach(model, options)


def load_adaptation(model: PreTrainedModel, folder: Path) -> Adaptation:
    """Put what ``folder`` holds on ``model``, its base.

    Args:
        model: the plain base.
        folder: an adapter in PEFT's format, changed weights, or a whole fine-tuned model.

    Raises:
        ModelError: it does not fit the model.
        StorageError: it is none of these, or damaged.
    """
    check_seal(folder)
    if (folder / "adapter_config.json").exists():
        if adapter_kind(folder) != "LORA":
            return load_peft(model, folder)
        load_adapter(model, folder)
        return LowRankAdaptation(model, title="LoRA")
    if (folder / CHANGED_WEIGHTS_FILE).exists():
        return load_changed_weights(model, folder)
    if (folder / "config.json").exists():
        return load_whole_model(model, folder)
    raise StorageError(
        "neither adapter_config.json nor changed weights nor a model is in it",
        where=str(folder),
        remedy="restore the folder from a backup, or train again",
    )


def _low_rank(kind: type[LoraLinear], title: str, scale: Callable[[int], float] = float) -> Callable[..., Adaptation]:
    """Attach layers of ``kind``, with their update scaled by alpha / ``scale``(rank)."""

    def attach(model: PreTrainedModel, options: AttachOptions) -> Adaptation:
        layers = None
        if options.layers is not None:
            layers = select_names(options.layers, find_linear_layers(model), what="linear layer")
        # LoraLinear divides alpha by the rank
        alpha = options.alpha * options.rank / scale(options.rank)
        attach_adapter(model, rank=options.rank, alpha=alpha, seed=options.seed, layers=layers, kind=kind)
        return LowRankAdaptation(model, title=title)

    return attach


def _full(model: PreTrainedModel, options: AttachOptions) -> Adaptation:
    return attach_weights(model, patterns=None, originals=options.originals)


def _partial(model: PreTrainedModel, options: AttachOptions) -> Adaptation:
    return attach_weights(model, patterns=options.layers, originals=options.originals)


def _peft(name: AdaptationName, title: str, **further: Any) -> AdaptationMethod:
    def attach(model: PreTrainedModel, options: AttachOptions) -> Adaptation:
        return attach_peft(
            model, name, title=title, rank=options.rank, alpha=options.alpha, seed=options.seed, layers=options.layers
        )

    return AdaptationMethod(title, attach, **further)


# The learning rate of weights themselves is about a tenth of LoRA's best (Schulman et al. 2025, "LoRA without regret").
_WEIGHTS_RATE_FACTOR = 0.1
# see hone.model.full: copy 4, gradient 4, moments 8, best weights 4
_WEIGHTS_STATE_BYTES = 20

ADAPTATIONS: Mapping[AdaptationName, AdaptationMethod] = {
    "lora": AdaptationMethod("LoRA", _low_rank(LoraLinear, "LoRA")),
    # Kalajdzievski 2023, arXiv:2312.03732
    "rslora": AdaptationMethod(
        "rsLoRA",
        _low_rank(LoraLinear, "rsLoRA", math.sqrt),
        alpha_of_rank=lambda rank: round(2.0 * math.sqrt(rank), 3),
        alpha_reason="twice the root of the rank, which scales the update as LoRA's default does",
    ),
    "dora": AdaptationMethod("DoRA", _low_rank(DoraLinear, "DoRA")),
    "pissa": AdaptationMethod(
        "PiSSA",
        _low_rank(PissaLinear, "PiSSA"),
        alpha_of_rank=float,
        alpha_reason="the rank, as in the paper: the start is the weight's own principal part",
        rate_factor=0.1,
    ),
    "full": AdaptationMethod(
        "full fine-tuning",
        _full,
        has_rank=False,
        rate_factor=_WEIGHTS_RATE_FACTOR,
        state_bytes_per_weight=_WEIGHTS_STATE_BYTES,
    ),
    "partial": AdaptationMethod(
        "partial fine-tuning",
        _partial,
        has_rank=False,
        rate_factor=_WEIGHTS_RATE_FACTOR,
        needs_layers=True,
        state_bytes_per_weight=_WEIGHTS_STATE_BYTES,
    ),
    "c3a": _peft("c3a", "C3A", has_rank=False),
    "delora": _peft("delora", "DeLoRA"),
    "fourierft": _peft("fourierft", "FourierFT", has_rank=False),
    "ia3": _peft("ia3", "IA3", has_rank=False),
    "ln_tuning": _peft("ln_tuning", "norm tuning", has_rank=False),
    "loha": _peft("loha", "LoHa"),
    "lokr": _peft("lokr", "LoKr"),
    "miss": _peft("miss", "MiSS"),
    "oft": _peft("oft", "OFT", has_rank=False),
    "randlora": _peft("randlora", "RandLoRA"),
    "road": _peft("road", "RoAd", has_rank=False),
    "shira": _peft("shira", "SHiRA"),
    "vera": _peft("vera", "VeRA"),
    "waveft": _peft("waveft", "WaveFT", has_rank=False),
}
