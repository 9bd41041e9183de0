"""After training: the adapter's strength is swept, and the one that keeps retention is set. No retraining.

Measured on the validation rows, never on held-out ones, and judged by the bounds of ``hone evaluate``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.engine.parallel import Parallel
from hone.errors import InterruptedRunError
from hone.evaluation.divergence import Divergence, answer_divergences
from hone.evaluation.likelihood import answer_bits
from hone.evaluation.probes.suite import general_prompts
from hone.evaluation.retention import Likelihoods, Retention, judge_questions, judge_retention
from hone.evaluation.strength import (
    STRENGTHS,
    StrengthChoice,
    StrengthPoint,
    between,
    judged_point,
    pick_strength,
    with_questions,
)
from hone.model.adaptation import Adaptation
from hone.model.forward import Forward, logits_pass
from hone.model.load import LoadedModel
from hone.planning.choose import TOLERATED_LOSS_RISE
from hone.recipe.base_cache import cached_figures
from hone.recipe.general import GeneralMaterial, base_key, general_material, on_path
from hone.recipe.question_sets import QuestionSet, ReadySet
from hone.types import JsonDict, Keep, TokenSequence

__all__ = ["FULL_STRENGTH", "SweepMaterial", "material_for_sweep", "set_kept_strength"]

FULL_STRENGTH = StrengthChoice(1.0, "as trained; nothing was swept")
# Every third answer and passage first, since each strength is to take seconds; all of them where a bound is near.
_FIRST_STEP = 3
# Strengths that are added between two of the frontier where the bounds limit the choice.
_MOST_ADDED = 2


@dataclass(frozen=True, slots=True)
class SweepMaterial:
    """What strengths are measured on: the material of ``hone evaluate``, a third of it where that is enough.

    Args:
        answers: general prompts with the base's own answers.
        answer_bytes: UTF-8 bytes of each answer.
        texts: passages of prose.
        text_bytes: UTF-8 bytes of each passage.
        questions: sets of general questions; asked where a strength would be chosen.
        base: the base's key, under which what it answers is kept.
        home: hone's home folder.
    """

    answers: tuple[TokenSequence, ...]
    answer_bytes: tuple[int, ...]
    texts: tuple[TokenSequence, ...]
    text_bytes: tuple[int, ...]
    questions: Sequence[ReadySet]
    base: tuple[object, ...]
    home: Path


def material_for_sweep(
    keep: Keep,
    adaptation: Adaptation,
    base: LoadedModel,
    renderer: Renderer,
    *,
    questions: Sequence[QuestionSet],
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
        questions: sets of general questions; those that cannot be asked are left out.
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
    if not material.answers or not material.texts:
        return "as trained: the base gives no answer to general prompts"
    asked = [one.ready_for(base, renderer) for one in questions]
    return SweepMaterial(
        material.answers, material.answer_bytes, material.texts, material.text_bytes,
        [one for one in asked if one.questions], base_key(base, renderer), home,
    )  # fmt: skip


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
    sweep = _Sweep(keep, adaptation, material, validation, forward)
    told = _told(recorder, should_stop, parallel, adaptation)
    points = _asked_where_chosen(sweep.measure(STRENGTHS, told), sweep, recorder, parallel)
    for _ in range(_MOST_ADDED):
        more = parallel.from_first(between(points, keep, tolerated_rise=TOLERATED_LOSS_RISE))
        if more is None:
            break
        points = _asked_where_chosen([*points, *sweep.measure([more], told)], sweep, recorder, parallel)
    points.sort(key=lambda point: point.strength)
    choice: StrengthChoice = parallel.from_first(pick_strength(points, keep, tolerated_rise=TOLERATED_LOSS_RISE))
    adaptation.set_strength(choice.value)
    said = {"choice": "strength", "value": f"{choice.value:g}", "reason": choice.reason}
    recorder.record(Event("note", {"text": f"strength = {choice.value:g} ({choice.reason})", **said}))
    return choice


def _asked_where_chosen(
    points: Sequence[StrengthPoint], sweep: _Sweep, recorder: Recorder, parallel: Parallel
) -> list[StrengthPoint]:
    """The same points, the chosen one with general questions asked: what is lost on them takes it out of the choice.

    Asking at every strength would cost more than all other measures; a smaller strength loses less, so that the
    largest is asked first, and the next one where it fails.
    """
    found = list(points)
    while sweep.material.questions:
        choice = parallel.from_first(pick_strength(found, sweep.keep, tolerated_rise=TOLERATED_LOSS_RISE))
        place = next(number for number, point in enumerate(found) if point.strength == choice.value)
        if not found[place].kept or choice.value in sweep.asked:
            break
        found[place] = sweep.ask(found[place], recorder)
    return found


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Measures one strength after the other on the same rows, answers and passages."""

    keep: Keep
    adaptation: Adaptation
    material: SweepMaterial
    validation: Sequence[TokenSequence]
    forward: Forward
    text_bits: dict[float, dict[int, float]] = field(default_factory=dict)
    asked: set[float] = field(default_factory=set)

    def measure(self, strengths: Sequence[float], told: Callable[[int, int], None]) -> list[StrengthPoint]:
        """Points of the frontier.

        Args:
            strengths: which.
            told: called with how many are measured, and of how many; may raise.
        """
        found = []
        for strength, retention in zip(strengths, self._retention(strengths, _FIRST_STEP), strict=True):
            # near a bound all answers and passages are asked, as in the verdict
            [judged] = self._retention([strength], 1) if retention.borderline else [retention]
            found.append(judged_point(strength, self._validation_loss(strength), judged))
            told(len(found), len(strengths))
        return found

    def ask(self, point: StrengthPoint, recorder: Recorder) -> StrengthPoint:
        """The point with general questions asked at its strength.

        Args:
            point: of this sweep.
            recorder: receives progress.
        """
        self.asked.add(point.strength)
        asked = []
        for ready in self.material.questions:

            def right(strength: float, ready: ReadySet = ready) -> JsonDict:
                self.adaptation.set_strength(strength)
                task = f"strength {strength:g}: {ready.name}" if strength else f"base: {ready.name}"

                def told(done: int) -> None:
                    recorder.record(Event("progress", {"task": task, "done": done, "total": ready.steps}))

                return {"right": ready.right(self.forward, told)}

            key = on_path("questions", self.material.base, self.forward, ready.key)
            base = cached_figures(self.material.home, key, partial(right, 0.0))
            found = right(point.strength)["right"]
            asked.append(judge_questions(ready.name, ready.questions, base["right"], found, lm_eval=ready.lm_eval))
        return with_questions(point, self.keep, asked)

    def _validation_loss(self, strength: float) -> float | None:
        if not self.validation:
            return None
        self.adaptation.set_strength(strength)
        nats = sum(answer_bits(self.adaptation.model, self.validation, forward=self.forward)) * math.log(2)
        return nats / sum(sequence.num_supervised for sequence in self.validation)

    def _retention(self, strengths: Sequence[float], step: int) -> list[Retention]:
        material, model = self.material, self.adaptation.model
        answers, texts = material.answers[::step], range(0, len(material.texts), step)
        switches = [partial(self.adaptation.set_strength, strength) for strength in strengths if strength]
        divergences = answer_divergences(model, answers, switches, logits=logits_pass(self.forward))
        no_change = [Divergence(0.0, 0.0, 0.0, one.num_supervised) for one in answers]
        own_answers = [divergences.pop(0) if strength else no_change for strength in strengths]
        base = self._text_bits(0.0, texts)
        return [
            judge_retention(
                self.keep,
                questions=[],
                own_answers=Likelihoods(
                    [one.base_bits for one in own], [one.tuned_bits for one in own], material.answer_bytes[::step],
                    [one.kl_nats for one in own], [one.num_tokens for one in own],
                ),
                general_text=Likelihoods(
                    base, self._text_bits(strength, texts), [material.text_bytes[place] for place in texts]
                ),
                brittleness=None,
            )
            for strength, own in zip(strengths, own_answers, strict=True)
        ]  # fmt: skip

    def _text_bits(self, strength: float, places: Sequence[int]) -> list[float]:
        known = self.text_bits.setdefault(strength, {})
        missing = [place for place in places if place not in known]
        if missing:
            self.adaptation.set_strength(strength)
            texts = [self.material.texts[place] for place in missing]
            known.update(zip(missing, answer_bits(self.adaptation.model, texts, forward=self.forward), strict=True))
        return [known[place] for place in places]


def _told(
    recorder: Recorder, should_stop: Callable[[], bool], parallel: Parallel, adaptation: Adaptation
) -> Callable[[int, int], None]:
    """Says how far the sweep is, and stops where that was asked for."""

    def told(done: int, total: int) -> None:
        recorder.record(Event("progress", {"task": "strengths", "done": done, "total": total}))
        if any(parallel.everyones(should_stop())):
            adaptation.set_strength(FULL_STRENGTH.value)
            raise InterruptedRunError("stopped while the strength was swept; the training is saved")

    return told
