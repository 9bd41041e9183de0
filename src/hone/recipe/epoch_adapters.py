"""Adapters of single passes: what a run had learnt at each, kept in a form that can be asked.

A run's checkpoints go as it proceeds, and hold optimizer states as well. :class:`EpochKeeper` keeps their weights while
they are there, and :func:`save_epoch_adapters` makes adapters of the last ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from hone.engine.checkpoint import checkpoint_folders
from hone.engine.events import Event
from hone.errors import StorageError
from hone.files import atomic_folder, remove_folder, write_json
from hone.model.adaptation import load_adaptation
from hone.model.adapter_files import read_adapter_notes
from hone.recipe.adapting import load_base_as
from hone.registry.runs import RunFolder

__all__ = ["EpochKeeper", "save_epoch_adapters"]

_KEPT = "kept-weights"
_WEIGHTS = "adapter.safetensors"
# Checkpoints between passes, which an interrupted run leaves, must not take the place of a pass's.
_INTERRUPTIONS = 3


class EpochKeeper:
    """A Recorder that copies each checkpoint's weights before the checkpoint is removed.

    Args:
        run: the run's folder.
        most: passes whose weights are kept, the newest.
    """

    def __init__(self, run: Path, *, most: int) -> None:
        self._run = run
        self._most = most

    def record(self, event: Event) -> None:
        """Copy what is there and was not copied yet: the event comes before its own checkpoint and any removal.

        Raises:
            StorageError: no space or no permission.
        """
        if event.kind == "checkpoint":
            self.keep()

    def keep(self) -> None:
        """Copy what is there and was not copied yet.

        Raises:
            StorageError: no space or no permission.
        """
        for checkpoint in checkpoint_folders(self._run / "checkpoints"):
            target = self._run / _KEPT / checkpoint.name
            if not target.exists():
                with atomic_folder(target) as temporary:
                    shutil.copyfile(checkpoint / _WEIGHTS, temporary / _WEIGHTS)
        for old in checkpoint_folders(self._run / _KEPT)[: -self._most - _INTERRUPTIONS]:
            remove_folder(old)


def save_epoch_adapters(
    run: RunFolder, *, home: Path, steps: list[int], target: Callable[[int], Path], note: Callable[[str], None]
) -> list[int]:
    """Make an adapter of the weights that each of ``steps`` ended with, and remove the weights that were kept.

    Args:
        run: a finished run, whose weights an :class:`EpochKeeper` has kept.
        home: hone's home folder.
        steps: the steps, ascending.
        target: the folder for a step; it gets ``adapter/`` and ``run.json``, as a run's folder has them.
        note: receives sentences for the user.

    Returns:
        The steps whose adapters are there now.

    Raises:
        ModelError: the base cannot be loaded, or the weights are not those of the run's adapter.
        StorageError: no space, or a file is damaged.
    """
    EpochKeeper(run.path, most=len(steps)).keep()  # the last checkpoint came after the last event
    kept = {step: run.path / _KEPT / f"step-{step:06d}" / _WEIGHTS for step in steps}
    missing = {step: path for step, path in kept.items() if path.exists() and not (target(step) / "adapter").is_dir()}
    if missing:
        notes = read_adapter_notes(run.adapter)
        base = load_base_as(
            notes["base_name"], quantize=notes.get("quantize"), home=home, device="cpu", dtype=None, note=note
        )
        adaptation = load_adaptation(base.model, run.adapter)
        parameters = adaptation.parameters()
        for step, path in missing.items():
            weights = load_file(path)
            if weights.keys() != parameters.keys():
                raise StorageError("holds other weights than the run's adapter", where=str(path))
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(weights[name])
            adaptation.refresh()
            folder = target(step)
            write_json(folder / "run.json", run.record() | {"id": f"{run.id}-step-{step}"})
            adaptation.save(
                folder / "adapter", tokenizer=base.tokenizer, base_name=base.name,
                notes={key: value for key, value in notes.items() if key != "sealed"},
            )  # fmt: skip
    if (run.path / _KEPT).is_dir():
        remove_folder(run.path / _KEPT)
    return [step for step in steps if (target(step) / "adapter").is_dir()]
