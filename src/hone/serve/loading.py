"""From what a request names to a model that can answer it: the base in memory, the adapter, and its renderer.

Versions that are plain LoRA adapters share one base. Everything else (DoRA, added tokens, whole models, other methods)
gets a base of its own, which goes again when others need the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from hone.data.render import Renderer
from hone.errors import ProofError
from hone.model.adapter_weights import read_adapter_weights
from hone.model.batcher import Batcher
from hone.model.catalog import resolve_model
from hone.model.lora_files import is_plain_lora
from hone.model.quantize import QuantizedType
from hone.model.rows import BatcherLimits
from hone.proof.invariant import described
from hone.proof.probe import check_version_probe, read_version_probe
from hone.recipe.adapting import load_base_as
from hone.recipe.finding import base_named, find_run, notes_of_run
from hone.recipe.inference import (
    check_same_base,
    check_same_template,
    load_answerer,
    make_renderer,
    no_answers_of,
)
from hone.registry.versions import verify_version
from hone.serve.engine import AdapterSource, Engine
from hone.types import JsonDict

__all__ = ["Loaded", "Loader", "Place"]

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reference is answered: its engine's key, and what is needed to load it.

    Args:
        engine: the key; references with the same one share a base.
        reference: what was asked for.
        base: name of the base, for an engine that others share; None where the engine is the reference's own.
        quantize: its 4-bit type.
        run_folder: None for a base.
        notes: what training wrote; empty for a base.
        unproven: whether the version is known not to reproduce its probe.
    """

    engine: tuple[str, str]
    reference: str
    base: str | None
    quantize: QuantizedType | None
    run_folder: Path | None
    notes: JsonDict
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer.

    Args:
        reference: as it was asked for.
        engine: where it is answered.
        renderer: as in training.
        adapter: None for a base, and where the engine is its own.
        system: the system message that all its training rows share.
    """

    reference: str
    engine: Engine
    renderer: Renderer
    adapter: AdapterSource | None
    system: str | None


class Loader:
    """Loads models; each method reads files and is slow.

    Args:
        home: hone's home folder.
        device: as for training; chosen where None.
        dtype: the same.
        limits: of each engine.
        note: receives sentences for whoever runs the server.
    """

    def __init__(self, home: Path, *, device: str | None, dtype: str | None, limits: BatcherLimits, note: Note) -> None:
        self.home = home
        self.device = device
        self.dtype = dtype
        self.limits = limits
        self.note = note

    def place(self, reference: str) -> Place:
        """Find what ``reference`` names.

        Raises:
            VersionError, ModelError: there is no such thing.
            StorageError: its files are not those that were registered.
            ConfigError: it is a reward model, which writes nothing.
        """
        version, folder = find_run(reference, self.home, self.note)
        if folder is None:
            name = resolve_model(base_named(self.home, reference), home=self.home).name
            return Place(("base", name), reference, name, None, None, {})
        if version is not None:
            verify_version(version)
        notes = notes_of_run(folder)
        if notes.get("method") == "reward":
            raise no_answers_of(reference)
        failed = [one for one in (version.proof if version else None) or [] if not one["holds"]]
        unproven = any(one["number"] == 10 for one in failed)
        if notes.get("added_tokens") or not is_plain_lora(folder / "adapter"):
            return Place(("own", reference), reference, None, None, folder, notes, unproven)
        quantize = notes.get("quantize")
        key = ("base", f"{notes['base_name']}, {quantize}" if quantize else notes["base_name"])
        return Place(key, reference, notes["base_name"], quantize, folder, notes, unproven)

    def engine(self, place: Place) -> tuple[Engine, Renderer | None]:
        """The engine of a place, begun; and the renderer, where the engine is the reference's own.

        Raises:
            HoneError: see :func:`hone.recipe.inference.load_answerer`.
        """
        if place.base is None:
            answerer = load_answerer(
                place.reference, home=self.home, device=self.device, dtype=self.dtype, note=self.note
            )
            return Engine(answerer.base, limits=self.limits, adapters=False), answerer.renderer
        base = load_base_as(
            place.base, quantize=place.quantize, home=self.home, device=self.device, dtype=self.dtype, note=self.note
        )  # fmt: skip
        return Engine(base, limits=self.limits, adapters=True), None

    def loaded(self, place: Place, engine: Engine, renderer: Renderer | None) -> Loaded:
        """What is answered at a place, checked against how it was trained.

        Args:
            place: see :meth:`place`.
            engine: of the place.
            renderer: the engine's, where it is the reference's own.

        Raises:
            ModelError: base, template or tokenizer is not the one it was trained with, or the adapter does not fit.
            ProofError: it does not reproduce the probe stored with it.
        """
        system = place.notes.get("system_prompt")
        if renderer is not None:
            return Loaded(place.reference, engine, renderer, None, system)
        base = replace(engine.base, name=place.base or engine.base.name)
        folder, notes = place.run_folder, place.notes
        if folder is None:
            renderer = make_renderer(base, (), max_length=None, note=self.note)
            return Loaded(place.reference, engine, renderer, None, None)
        check_same_base(base, notes, name=place.reference)
        thinking = notes["template"]["thinking"]
        renderer = make_renderer(base, (), max_length=None, note=self.note, thinking=thinking)
        check_same_template(base, renderer, notes, folder, name=place.reference)
        # the path is new for new files: names of adapters are never reused for other weights
        source = AdapterSource(
            f"{place.reference} in {folder}",
            partial(
                read_adapter_weights, folder / "adapter", widths=engine.batcher.widths, dtype=base.dtype,
                device=torch.device(base.device),
            ),
        )  # fmt: skip
        engine.call(partial(_reproduced, place=place, source=source, renderer=renderer, note=self.note)).result()
        return Loaded(place.reference, engine, renderer, source, system)


def _reproduced(batcher: Batcher, *, place: Place, source: AdapterSource, renderer: Renderer, note: Note) -> None:
    """Hold an adapter, as it lies in the shared base, against the probe stored with it."""
    assert place.run_folder is not None, "a plain base has no probe"
    probe = read_version_probe(place.run_folder / "adapter")
    if probe is None:
        note(f"{place.reference} has no probe: nobody can tell whether it is as it was saved")
        return
    if not batcher.has_adapter(source.name) and not batcher.add_adapter(source.name, source.read()):
        raise ProofError(f"{place.reference} cannot be checked now: memory is full", remedy="ask again a little later")
    with batcher.alone(source.name) as forward:
        found = check_version_probe(probe, batcher.model, renderer, logits=forward)
    if not found.holds and not place.unproven:
        raise ProofError(
            f"{place.reference} is not what was saved: {found.found}",
            why="it would give answers that nobody has measured",
            remedy=f"{found.remedy}; `hone proof {place.reference}` shows all that can be checked",
            details=[described(found)],
        )
