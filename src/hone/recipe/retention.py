"""Retention of a version: base and tuned model on general questions, prompts and prose, from one load.

What the base alone does is measured once for each base and kept in the home folder (``base_cache.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hone.engine.events import Event, Recorder
from hone.evaluation.brittleness import Brittleness, measure_brittleness
from hone.evaluation.divergence import answer_divergence
from hone.evaluation.likelihood import answer_bits
from hone.evaluation.probe_scores import LogitsForward
from hone.evaluation.probes.suite import general_prompts
from hone.evaluation.retention import Likelihoods, QuestionResult, Retention, judge_questions, judge_retention
from hone.model.forward import Forward, logits_pass
from hone.model.generate import SamplingSettings, generate
from hone.model.lora import adapter_disabled
from hone.recipe.base_cache import cached_figures
from hone.recipe.general import GENERAL_ANSWER_TOKENS, GeneralMaterial, base_key, general_material, on_path
from hone.recipe.inference import Answerer, training_path
from hone.recipe.question_sets import QuestionSet, ReadySet
from hone.types import JsonDict, Keep, TokenSequence

__all__ = ["measure_retention"]

_MOST_TURNED = 3


@dataclass(frozen=True, slots=True)
class _Measurement:
    """What the parts of one measurement share."""

    answerer: Answerer
    material: GeneralMaterial
    forward: Forward
    logits: LogitsForward
    home: Path
    recorder: Recorder

    def progress(self, task: str, total: int) -> Callable[[int], None]:
        return _progress(self.recorder, task, total)

    def base_figures(self, what: str, texts: object, measure: Callable[[], JsonDict]) -> JsonDict:
        """Of the base on this path, measured or remembered."""
        base = self.answerer.base
        key = on_path(what, base_key(base, self.answerer.renderer_of("base")), self.forward, texts)

        def measured() -> JsonDict:
            with adapter_disabled(base.model):
                return measure()

        return cached_figures(self.home, key, measured)


def _progress(recorder: Recorder, task: str, total: int) -> Callable[[int], None]:
    return lambda done: recorder.record(Event("progress", {"task": task, "done": done, "total": total}))


def measure_retention(
    answerer: Answerer,
    *,
    keep: Keep,
    questions: Sequence[QuestionSet],
    domain_answers: Sequence[str],
    home: Path,
    recorder: Recorder,
    seed: int = 0,
) -> Retention:
    """Measure what is left of the base's general ability.

    Args:
        answerer: a tuned model.
        keep: how much loss is acceptable.
        questions: sets of them, hone's own suite first.
        domain_answers: reference answers, by which answers of the domain are known.
        home: hone's home folder.
        recorder: receives progress.
        seed: of the resamples.

    Raises:
        DataError: a task of lm-evaluation-harness asks otherwise each time.
        StorageError: what the base does cannot be kept.
    """
    base, renderer = answerer.base, answerer.renderer_of("base")
    recorder.record(Event("stage", {"name": "retention", "detail": "general questions, prompts and prose"}))
    told = _progress(recorder, "base: general prompts", len(general_prompts()))
    material = general_material(base, renderer, home=home, on_done=told)
    brittleness, turned = _brittleness(answerer, material, domain_answers, recorder)
    ready = [one.ready_for(base, renderer) for one in questions]
    forward, attention = training_path(base.model, reference=answerer.reference_path)
    shared = _Measurement(answerer, material, forward, logits_pass(forward), home, recorder)
    not_measured: list[JsonDict] = []
    if brittleness is None:
        reason = f"{len(domain_answers)} reference answers are too few to know the domain by"
        not_measured.append({"what": "brittleness", "reason": reason})
    with attention:
        answered = [_questions(shared, one, seed, not_measured) for one in ready]
        return judge_retention(
            keep,
            questions=[one for one in answered if one is not None],
            own_answers=_own_answers(shared),
            general_text=_general_text(shared),
            brittleness=brittleness,
            turned=turned,
            not_measured=not_measured,
            seed=seed,
        )


def _questions(shared: _Measurement, ready: ReadySet, seed: int, not_measured: list[JsonDict]) -> QuestionResult | None:
    name, count = ready.name, len(ready.questions)
    if ready.refused:
        number = len(ready.refused)
        reason = f"the template refuses them, or they are longer than the context (the first: {ready.refused[0]})"
        not_measured.append({"what": f"{number} of {count + number} questions of {name}", "reason": reason})
    if not count:
        return None

    def right(arm: str) -> list[bool]:
        return ready.right(shared.forward, shared.progress(f"{arm}: {name}", ready.steps))

    base = shared.base_figures("questions", ready.key, lambda: {"right": right("base")})
    return judge_questions(name, ready.questions, base["right"], right("tuned"), seed=seed, lm_eval=ready.lm_eval)


def _own_answers(shared: _Measurement) -> Likelihoods | None:
    material = shared.material
    if not material.answers:
        return None
    found = answer_divergence(
        shared.answerer.base.model,
        material.answers,
        logits=shared.logits,
        on_done=shared.progress("tuned: the base's own answers", len(material.answers)),
    )
    return Likelihoods(
        base_bits=[one.base_bits for one in found],
        tuned_bits=[one.tuned_bits for one in found],
        num_bytes=material.answer_bytes,
        kl_nats=[one.kl_nats for one in found],
        num_tokens=[one.num_tokens for one in found],
    )


def _general_text(shared: _Measurement) -> Likelihoods | None:
    material, model = shared.material, shared.answerer.base.model
    if not material.texts:
        return None

    def bits(arm: str, texts: Sequence[TokenSequence]) -> list[float]:
        done = shared.progress(f"{arm}: general text", len(texts))
        return answer_bits(model, texts, forward=shared.forward, on_done=done)

    base = shared.base_figures("text", material.texts, lambda: {"bits": bits("base", material.texts)})
    return Likelihoods(base["bits"], bits("tuned", material.texts), material.text_bytes)


def _brittleness(
    answerer: Answerer, material: GeneralMaterial, domain_answers: Sequence[str], recorder: Recorder
) -> tuple[Brittleness | None, list[JsonDict]]:
    """Let the tuned model answer the general prompts; on the model's own attention."""
    if not domain_answers:
        return None, []
    answers = generate(
        answerer.base.model,
        material.prompts,
        stop_ids=answerer.renderer.stop_ids,
        settings=SamplingSettings(GENERAL_ANSWER_TOKENS),
        on_done=_progress(recorder, "tuned: general prompts", len(material.prompts)),
    )
    texts = [answerer.text(answer.ids) for answer in answers]
    found = measure_brittleness(material.base_texts, texts, domain_answers)
    shown = () if found is None else found.turned[:_MOST_TURNED]
    return found, [
        {"prompt": material.questions[place], "base": material.base_texts[place], "tuned": texts[place]}
        for place in shown
    ]
