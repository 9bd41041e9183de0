"""Checkpoints: safetensors and JSON in one folder, complete or absent.

A checkpoint is written under a temporary name, its manifest of SHA-256 sums last, read back and renamed; an older one
goes only after that. Order and randomness are functions of (seed, step), so weights, optimizer and step are
the whole state. A damaged checkpoint is set aside with its name changed, and the one before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from hone.errors import StorageError
from hone.files import atomic_folder, remove_folder, sha256_file, write_atomically, write_json

__all__ = [
    "Checkpoint",
    "Progress",
    "checkpoint_bytes",
    "checkpoint_folders",
    "load_newest_checkpoint",
    "save_checkpoint",
]

_NAME = re.compile(r"step-(\d{6,})")
_TENSOR_FILES = ("adapter", "best", "optimizer")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Args:
        step: optimizer steps done.
        tokens: real tokens seen in training.
        supervised_tokens: tokens that carried loss.
        seconds: time spent in training, over all attempts.
        best_step: step whose weights are kept; 0 before the first validation.
        best_loss: their validation loss in nats per supervised token; None before the first validation.
        lowest_loss: the lowest validation loss; None before the first validation.
        evaluations_without_gain: validations since the step that is kept.
        smallest_gradient_norm: over all steps; None before the first.
        largest_gradient_norm: over all steps; None before the first.
    """

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float | None = None
    lowest_loss: float | None = None
    evaluations_without_gain: int = 0
    smallest_gradient_norm: float | None = None
    largest_gradient_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a resumed run needs: tensors by name, and where it stood."""

    adapter: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    progress: Progress


def checkpoint_folders(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def checkpoint_bytes(parameters: Mapping[str, Tensor]) -> int:
    """Disk that one checkpoint takes: the weights, the best weights, and AdamW's two moments."""
    return 4 * sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write ``checkpoint`` below ``folder``, read it back, then remove all but the ``keep`` newest; 0 keeps all.

    Raises:
        StorageError: no space or no permission, or what is read back is not what was written; the checkpoints that
            were there before are untouched.
    """
    target = folder / f"step-{checkpoint.progress.step:06d}"
    with atomic_folder(target) as temporary:
        for name in _TENSOR_FILES:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in getattr(checkpoint, name).items()}
            # not save_file: its writer reports a full disk by an error of its own, which is no OSError
            write_atomically(temporary / f"{name}.safetensors", save(tensors))
        write_json(temporary / "progress.json", asdict(checkpoint.progress))
        sums = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", sums)
        if not _is_sound(temporary):  # before it takes its name, which another checkpoint of this step may still have
            raise StorageError(
                "a checkpoint that was just written is read back otherwise",
                where=str(target),
                why="its disk, or the way to it, changes what is stored there",
                remedy="check the disk; the checkpoints before this one are kept",
            )
    for old in checkpoint_folders(folder)[:-keep] if keep else []:
        remove_folder(old)
    return target


def load_newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint below ``folder``.

    Returns:
        (checkpoint, damaged): None where there is none; the folders that were found damaged and set aside.

    Raises:
        StorageError: a damaged one cannot be set aside.
    """
    damaged: list[Path] = []
    for path in reversed(checkpoint_folders(folder)):
        if _is_sound(path):
            return _read(path), damaged
        damaged.append(_set_aside(path))
    return None, damaged


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists():
        remove_folder(aside)
    try:
        return path.rename(aside)
    except OSError as error:
        raise StorageError(
            f"is damaged and cannot be renamed: {error.strerror or error}",
            where=str(path),
            remedy="remove it; the checkpoint before it is then used",
        ) from error


def _is_sound(path: Path) -> bool:
    try:
        sums = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        expected = {f"{name}.safetensors" for name in _TENSOR_FILES} | {"progress.json"}
        return set(sums) == expected and all(sha256_file(path / name) == digest for name, digest in sums.items())
    except (StorageError, OSError, ValueError, TypeError):
        return False


def _read(path: Path) -> Checkpoint:
    adapter, best, optimizer = (load_file(path / f"{name}.safetensors") for name in _TENSOR_FILES)
    progress = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    return Checkpoint(adapter, best, optimizer, Progress(**progress))
