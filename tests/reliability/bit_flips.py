"""Single bits flipped in what hone stores; each must be noticed when it is loaded, before anything is done with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hone.engine.checkpoint import load_newest_checkpoint, save_checkpoint
from hone.errors import StorageError
from hone.model.adapter_files import load_adapter, read_adapter_notes, save_adapter
from hone.model.gguf import converted_folder
from hone.model.lora import adapted_layers, detach_adapter
from hone.model.sealed_folder import problems_of_seal
from tests.model.test_gguf import gguf_tensors, tiny_llama, write_gguf
from tests.reliability.checkpoints import checkpoint_of
from tests.tiny import attach_random_adapter, tiny_model


@dataclass(frozen=True)
class Subject:
    """A folder whose bits are flipped.

    Args:
        name: what it is.
        folder: where its files lie.
        is_noticed: loads it, and tells whether the damage was noticed; leaves the files as they were.
    """

    name: str
    folder: Path
    is_noticed: Callable[[], bool]


def subjects(folder: Path) -> list[Subject]:
    """A checkpoint, an adapter and a converted GGUF model, made below ``folder``."""
    return [_checkpoint(folder / "checkpoint"), _adapter(folder / "adapter"), _converted(folder / "converted")]


def _checkpoint(folder: Path) -> Subject:
    saved = save_checkpoint(folder, checkpoint_of(8), keep=1)

    def is_noticed() -> bool:
        found, damaged = load_newest_checkpoint(folder)
        for path in damaged:
            path.rename(saved)
        return found is None and len(damaged) == 1

    return Subject("checkpoint", saved, is_noticed)


def _adapter(folder: Path) -> Subject:
    model = tiny_model("llama", num_hidden_layers=1)
    attach_random_adapter(model, rank=2)
    save_adapter(model, folder, base_name="tiny", notes={"base_hash": "ab", "template": {"stop_tokens": ["x"]}})
    plain = tiny_model("llama", num_hidden_layers=1)

    def is_noticed() -> bool:
        refused = 0
        for load in (read_adapter_notes, lambda path: load_adapter(plain, path)):
            try:
                load(folder)
            except StorageError:
                refused += 1
        untouched = not list(adapted_layers(plain))
        detach_adapter(plain, merge=False)
        return refused == 2 and untouched

    return Subject("adapter", folder, is_noticed)


def _converted(folder: Path) -> Subject:
    folder.mkdir()
    gguf = write_gguf(folder / "tiny.gguf", gguf_tensors(tiny_llama()))
    model = converted_folder(gguf, home=folder / "home", note=lambda text: None)
    # converted_folder converts anew where this finds a problem, which takes too long to be done at each flip
    return Subject("converted model", model, lambda: problems_of_seal(model) != [])


def unnoticed_flips(subject: Subject, draw: random.Random, count: int) -> Iterator[str]:
    """Flip ``count`` seeded bits of a subject, one at a time, each put back; yields those that nobody noticed.

    Every file is drawn as often as the others, whatever its size: else the sums would hardly ever be hit.
    """
    if subject.is_noticed():
        yield f"{subject.name}: found damaged as it is"
        return
    files = sorted(path for path in subject.folder.iterdir() if path.is_file())
    for _ in range(count):
        path = draw.choice(files)
        place, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        _flip(path, place, bit)
        if not subject.is_noticed():
            yield f"{subject.name}: bit {bit} of byte {place} of {path.name}"
        _flip(path, place, bit)


def _flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ (1 << bit)]))
