"""After training: the adapter's strength is swept, and the one that keeps retention is set. No retraining.

Measured on the validation rows, never on held-out ones, and on a part of what ``hone evaluate`` then measures whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.engine.parallel import Parallel
from hone.errors import InterruptedRunError
from hone.evaluation.divergence import answer_divergence
from hone.evaluation.likelihood import answer_bits
from hone.evaluation.probes.suite import general_prompts
from hone.evaluation.strength import STRENGTHS, StrengthChoice, StrengthPoint, is_kept, pick_strength
from hone.model.adaptation import Adaptation
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.recipe.general import GeneralMaterial, general_material
from hone.recipe.retention import logits_of
from hone.types import Keep, TokenSequence

__all__ = ["FULL_STRENGTH", "SweepMaterial", "material_for_sweep", "set_kept_strength"]

FULL_STRENGTH = StrengthChoice(1.0, "as trained; nothing was swept")
# Every third answer and passage: the frontier is smooth, and each strength is to take seconds.
_ANSWER_STEP, _TEXT_STEP = 3, 3


@dataclass(frozen=True, slots=True)
class SweepMaterial:
    """The part of the general material that each strength is measured on."""

    answers: tuple[TokenSequence, ...]
    texts: tuple[TokenSequence, ...]
    text_bytes: int


def material_for_sweep(
    keep: Keep,
    adaptation: Adaptation,
    base: LoadedModel,
    renderer: Renderer,
    *,
    home: Path,
    parallel: Parallel,
    sharded: bool,
    recorder: Recorder,
) -> SweepMaterial | str:
    """The general material where a sweep is possible, else why it is not; to be asked for on the model's own attention.

    Args:
        keep: ``off`` sweeps nothing.
        adaptation: what is to be trained.
        base: its model answers the general prompts, with the adapter off.
        renderer: of training; tokens that training adds are not in the general material.
        home: hone's home folder.
        parallel: the processes; the first one's material is everybody's.
        sharded: whether the base is split over them.
        recorder: receives progress.

    Raises:
        StorageError: the base's answers cannot be kept.
    """  # fmt: skip
    if keep == "off":
        return "as trained: --keep off"
    if not adaptation.has_strength:
        return f"as trained: {adaptation.summary} has no strength to set"
    if sharded:
        return "as trained: the base is split over the devices, where its answers cannot be generated"

    def told(done: int) -> None:
        total = len(general_prompts())
        recorder.record(Event("progress", {"task": "base: general prompts", "done": done, "total": total}))

    whole = general_material(base, renderer, home=home, on_done=told) if parallel.is_first else None
    material: GeneralMaterial = parallel.from_first(whole)
    texts = range(0, len(material.texts), _TEXT_STEP)
    if not material.answers or not material.texts:
        return "as trained: the base gives no answer to general prompts"
    return SweepMaterial(
        material.answers[::_ANSWER_STEP],
        tuple(material.texts[place] for place in texts),
        sum(material.text_bytes[place] for place in texts),
    )


def set_kept_strength(
    keep: Keep,
    adaptation: Adaptation,
    material: SweepMaterial | str,
    validation: Sequence[TokenSequence],
    *,
    forward: Forward,
    recorder: Recorder,
    should_stop: Callable[[], bool],
    parallel: Parallel,
) -> StrengthChoice:
    """Sweep the strength, set the one that keeps retention, and give the frontier.

    Args:
        keep: how much loss is acceptable.
        adaptation: what was trained, at its best weights.
        material: see :func:`material_for_sweep`.
        validation: rendered validation rows; may be empty.
        forward: the path of training, which the model is on.
        recorder: receives events.
        should_stop: asked after each strength; True in any process stops all.
        parallel: the processes, each of which measures along; the first one's choice is everybody's.

    Raises:
        InterruptedRunError: ``should_stop`` said so.
    """
    if isinstance(material, str):
        return StrengthChoice(FULL_STRENGTH.value, material)
    recorder.record(Event("stage", {"name": "strength", "detail": f"{len(STRENGTHS)} strengths from 0 to 1.25"}))
    points: list[StrengthPoint] = []
    for number, strength in enumerate(STRENGTHS, start=1):
        adaptation.set_strength(strength)
        points.append(_measured(strength, keep, adaptation.model, material, validation, forward, points))
        recorder.record(Event("progress", {"task": "strengths", "done": number, "total": len(STRENGTHS)}))
        if any(parallel.everyones(should_stop())):
            adaptation.set_strength(FULL_STRENGTH.value)
            raise InterruptedRunError("stopped while the strength was swept; the training is saved")
    choice: StrengthChoice = parallel.from_first(pick_strength(points, keep))
    adaptation.set_strength(choice.value)
    told = {"choice": "strength", "value": f"{choice.value:g}", "reason": choice.reason}
    recorder.record(Event("note", {"text": f"strength = {choice.value:g} ({choice.reason})", **told}))
    return choice


def _measured(
    strength: float,
    keep: Keep,
    model: PreTrainedModel,
    material: SweepMaterial,
    validation: Sequence[TokenSequence],
    forward: Forward,
    before: Sequence[StrengthPoint],
) -> StrengthPoint:
    """One point of the frontier; the first of ``before`` is the base."""
    loss = None
    if validation:
        nats = sum(answer_bits(model, validation, forward=forward)) * math.log(2)
        loss = round(nats / sum(sequence.num_supervised for sequence in validation), 6)
    text_bits = sum(answer_bits(model, material.texts, forward=forward)) / material.text_bytes
    kl_nats = 0.0
    if strength:
        found = answer_divergence(model, material.answers, logits=logits_of(forward))
        kl_nats = sum(one.kl_nats for one in found) / sum(one.num_tokens for one in found)
    base_text_bits = before[0].text_bits if before else text_bits
    kept = is_kept(keep, kl_nats=kl_nats, text_bits=text_bits, base_text_bits=base_text_bits)
    return StrengthPoint(strength, loss, round(kl_nats, 6), round(text_bits, 6), kept)
