"""Small checkpoints whose every byte follows from the step, and whether a folder holds sound ones."""

from __future__ import annotations

from pathlib import Path

import torch

from hone.engine.checkpoint import Checkpoint, Progress, checkpoint_folders, load_newest_checkpoint
from hone.files import remove_abandoned


def checkpoint_of(step: int) -> Checkpoint:
    """A checkpoint of two tensors and their moments."""
    generator = torch.Generator().manual_seed(step)
    weights = {f"layer.{index}.lora_A": torch.randn(4, 8, generator=generator) for index in range(2)}
    moments = {f"{name}.exp_avg": torch.randn(4, 8, generator=generator) for name in weights}
    best = {name: tensor + 1 for name, tensor in weights.items()}
    return Checkpoint(weights, best, moments, Progress(step=step, tokens=100 * step, best_loss=1 / 3))


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two checkpoints are equal to the bit."""

    def content(checkpoint: Checkpoint) -> list[tuple[str, bytes]]:
        groups = (checkpoint.adapter, checkpoint.best, checkpoint.optimizer)
        return [(name, tensor.numpy().tobytes()) for group in groups for name, tensor in sorted(group.items())]

    return content(first) == content(second) and first.progress == second.progress


def after_a_start(folder: Path) -> tuple[int, list[str]]:
    """What a run that is begun again in ``folder`` finds: the step it goes on from (0: none), and what is damaged.

    What is found must be what was saved, and no temporary name may be left.
    """
    remove_abandoned(folder)
    found, damaged = load_newest_checkpoint(folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    if found is not None:
        assert same(found, checkpoint_of(found.progress.step)), "it is another checkpoint than the one saved"
    return found.progress.step if found else 0, [path.name for path in damaged]


def steps_of(folder: Path) -> list[int]:
    """The steps of all checkpoints that stand under a checkpoint's name."""
    return [int(path.name.removeprefix("step-")) for path in checkpoint_folders(folder)]
