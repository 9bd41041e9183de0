"""Further methods of adaptation, by PEFT itself: its layers in the base, its files on disk.

Those that PEFT can begin as the exact base, that act on layers and not on the prompt, and that need no schedule of
their own. They compute as PEFT does, without hone's fast layers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import MissingDependencyError, ModelError, StorageError
from hone.files import atomic_folder
from hone.model.adapter_files import seal_adapter
from hone.model.lora import find_linear_layers, layer_widths
from hone.model.quiet import quiet_transformers
from hone.model.select import select_names
from hone.model.switch import Switch
from hone.types import AdaptationName

__all__ = ["PEFT_METHODS", "PeftAdaptation", "attach_peft", "load_as_peft", "load_peft"]

_SWITCH = "hone_peft_switch"
_LARGEST_BLOCK = 32
_FREQUENCIES = 1000

# (PEFT's config class, its settings from rank, alpha and the block width that divides all layers). No layer is named
# where PEFT itself knows which layers of an architecture the method is for.
_Settings = Callable[[int, float, int], dict[str, Any]]
PEFT_METHODS: Mapping[AdaptationName, tuple[str, _Settings]] = {
    "c3a": ("C3AConfig", lambda rank, alpha, block: {"block_size": block, "init_weights": True}),
    "delora": ("DeloraConfig", lambda rank, alpha, block: {"r": rank}),
    "fourierft": ("FourierFTConfig", lambda rank, alpha, block: {"n_frequency": _FREQUENCIES, "init_weights": True}),
    "ia3": ("IA3Config", lambda rank, alpha, block: {"feedforward_modules": []}),
    "ln_tuning": ("LNTuningConfig", lambda rank, alpha, block: {"target_modules": None}),
    "loha": ("LoHaConfig", lambda rank, alpha, block: {"r": rank, "alpha": alpha}),
    "lokr": ("LoKrConfig", lambda rank, alpha, block: {"r": rank, "alpha": alpha}),
    "miss": ("MissConfig", lambda rank, alpha, block: {"r": rank}),
    "oft": ("OFTConfig", lambda rank, alpha, block: {"r": 0, "oft_block_size": block}),
    "randlora": ("RandLoraConfig", lambda rank, alpha, block: {"r": rank}),
    "road": ("RoadConfig", lambda rank, alpha, block: {"group_size": block}),
    "shira": ("ShiraConfig", lambda rank, alpha, block: {"r": rank}),
    "vera": ("VeraConfig", lambda rank, alpha, block: {"r": rank}),
    "waveft": ("WaveFTConfig", lambda rank, alpha, block: {"n_frequency": _FREQUENCIES, "init_weights": True}),
}


class _PeftSwitch(Switch):
    """Turns PEFT's layers on and off, and leaves alone what of them is trained."""

    def __init__(self, tuner: Any) -> None:
        super().__init__()
        self._tuner = (tuner,)  # in a tuple, so that the model does not become a child of its own child

    def turn(self, enabled: bool) -> None:
        tuner = self._tuner[0]
        trained = [(parameter, parameter.requires_grad) for parameter in tuner.parameters()]
        (tuner.enable_adapter_layers if enabled else tuner.disable_adapter_layers)()
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


class PeftAdaptation:
    """A method that PEFT computes; see :class:`hone.model.adaptation.Adaptation` for what each method gives.

    Args:
        wrapped: PEFT's model.
        title: how the method is called.
    """

    def __init__(self, wrapped: Any, *, title: str) -> None:
        self.model: PreTrainedModel = wrapped.get_base_model()
        self._wrapped = wrapped
        self._start = {name: parameter.detach().clone() for name, parameter in self.parameters().items()}
        self.num_parts = len(self._start)
        self.has_strength = False
        values = sum(tensor.numel() for tensor in self._start.values())
        self.summary = f"{title} by PEFT, {values} values in {self.num_parts} tensors"
        self.model.add_module(_SWITCH, _PeftSwitch(wrapped.base_model))

    def parameters(self) -> dict[str, nn.Parameter]:
        """What PEFT trains, by the model's names."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def rate_factors(self, ratio: float) -> dict[str, float]:
        """None: there is no A and no B of LoRA."""
        del ratio
        return {}

    def refresh(self) -> None:
        """Nothing follows from the parameters."""

    def set_strength(self, strength: float) -> None:
        """Each method has a scale of its own kind, or none."""
        raise AssertionError(f"no strength can be set ({strength}); has_strength says so")

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved, finite) of each tensor."""
        return {
            name: (not torch.equal(parameter.detach(), self._start[name]), bool(torch.isfinite(parameter).all()))
            for name, parameter in self.parameters().items()
        }

    def save(
        self,
        folder: Path,
        *,
        tokenizer: PreTrainedTokenizerBase,
        base_name: str,
        notes: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write what PEFT writes."""
        del tokenizer  # is the base's
        if broken := [name for name, (_, finite) in self.parts().items() if not finite]:
            raise ModelError(
                f"{len(broken)} of {self.num_parts} adapter tensors are not finite",
                details=broken,
                remedy="train again with a lower --learning-rate or --dtype float32",
            )
        for config in self._wrapped.peft_config.values():
            config.base_model_name_or_path = base_name
        try:
            with atomic_folder(folder) as temporary:
                # False: "auto" would ask the hub about the base
                self._wrapped.save_pretrained(temporary, save_embedding_layers=False)
                (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
                seal_adapter(temporary, notes, files or {})
        except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
            raise StorageError(f"cannot be written: {error}", where=str(folder)) from error

    def merge(self) -> None:
        """Let PEFT merge its layers into the weights."""
        delattr(self.model, _SWITCH)
        self._wrapped.merge_and_unload()


def attach_peft(
    model: PreTrainedModel,
    name: AdaptationName,
    *,
    title: str,
    rank: int,
    alpha: float,
    seed: int,
    layers: tuple[str, ...] | None,
) -> PeftAdaptation:
    """Put PEFT's layers into ``model``.

    Args:
        model: the base, frozen.
        name: a key of :data:`PEFT_METHODS`.
        title: how the method is called.
        rank: R of methods that have one.
        alpha: their scaling numerator.
        seed: of what PEFT draws.
        layers: patterns of linear layers; None for all but the head, or for those that PEFT itself chooses.

    Raises:
        MissingDependencyError: PEFT is not installed.
        ModelError: PEFT cannot adapt this model so.
    """
    peft = _peft()
    class_name, settings_of = PEFT_METHODS[name]
    names = find_linear_layers(model)
    if layers is not None:
        names = select_names(layers, names, what="linear layer")
    settings = {"target_modules": names, **settings_of(rank, alpha, _block(model, names))}
    try:
        config = getattr(peft, class_name)(task_type="CAUSAL_LM", **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"PEFT {peft.__version__} cannot put {title} on {type(model).__name__}: {error}",
            remedy="name other layers with --layers, or use --adaptation lora",
        ) from error
    wrapped.eval()
    return PeftAdaptation(wrapped, title=title)


def load_peft(model: PreTrainedModel, folder: Path) -> PeftAdaptation:
    """Let PEFT load the adapter in ``folder`` onto ``model``; every tensor must have its place.

    Raises:
        MissingDependencyError: PEFT is not installed.
        ModelError: the adapter does not fit the model, each tensor is named; or it is none that acts on layers.
        StorageError: a file is missing or damaged.
    """
    peft = _peft()
    path = folder / "adapter_model.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)  # first, because PEFT would take a pickle file where it is missing
        config = peft.PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning or config.peft_type.value not in _peft_types(peft):
            raise ModelError(
                f"{folder} is a {config.peft_type.value} adapter, which hone does not load",
                remedy="merge it into its base with PEFT and use the merged folder as the model",
            )
        wrapped = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True, torch_device="cpu").eval()
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the adapter cannot be read: {error}", where=str(folder)) from error
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ModelError(f"the adapter in {folder} does not fit this model: {error}") from error
    placed = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if problems := _differences(tensors, placed):
        raise ModelError(
            f"the adapter in {folder} does not fit this model: {len(problems)} tensors do not match",
            details=problems,
            why="layers without their tensors would answer as the base model does",
            remedy="use the base that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
        )
    return PeftAdaptation(wrapped, title=str(config.peft_type.value))


def _peft_types(peft: Any) -> set[str]:
    return {getattr(peft, class_name)().peft_type.value for class_name, _ in PEFT_METHODS.values()}


def _differences(tensors: Mapping[str, Tensor], placed: Mapping[str, Tensor]) -> Sequence[str]:
    problems = [f"{name}: the model has no place for it" for name in tensors if name not in placed]
    problems += [f"{name}: missing in the adapter" for name in placed if name not in tensors]
    problems += [f"{name}: not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    return problems + [
        f"{name}: differs from the file" for name, tensor in tensors.items()
        if name in placed and not torch.equal(tensor.float(), placed[name].detach().float().cpu())
    ]  # fmt: skip


def _block(model: PreTrainedModel, names: Sequence[str]) -> int:
    """The largest power of two up to 32 that divides every width."""
    modules: dict[str, Any] = dict(model.named_modules())
    widths = [width for name in names for width in layer_widths(modules[name])]
    return math.gcd(_LARGEST_BLOCK, *widths)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            "this adaptation is computed by the package peft",
            where="--adaptation",
            remedy="pip install 'hone-llm[peft]'",
        ) from error
    return peft


def load_as_peft(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A plain base with an adapter as PEFT itself loads it, of whatever method: to compare with what hone computes.

    Args:
        model: changed in place.
        folder: of the adapter.

    Raises:
        ModelError: PEFT does not load it on this model.
    """
    import peft

    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, and no matter of the user's
            wrapped: Any = peft.PeftModel.from_pretrained(model, str(folder))
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(f"PEFT cannot load the adapter: {error}", where=str(folder)) from error
    whole: PreTrainedModel = wrapped.eval()
    return whole
