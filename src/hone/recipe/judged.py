"""Evaluation of versions that learned what is better: from preferences, judged on pairs; from rewards, graded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hone.config.schema import EvaluateConfig
from hone.data.loader import LoadedData, load_examples
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError
from hone.evaluation.verdict import decide
from hone.proof.postflight import check_stops
from hone.recipe.answer_cache import cache_folder
from hone.recipe.arm_answers import ArmAnswers
from hone.recipe.held_out import EvaluationResult, answer_limit, held_out_rows, judged_with_retention, task_shape
from hone.recipe.inference import Answerer
from hone.recipe.preference_evaluation import compare_on_preferences
from hone.recipe.question_sets import QuestionSet
from hone.recipe.reproving import measure_merged, measure_reloaded
from hone.recipe.reward_evaluation import compare_on_rewards
from hone.types import ArmName, Example, Message

__all__ = ["evaluate_judged", "load_judged"]


def load_judged(config: EvaluateConfig, answerer: Answerer, source: str) -> LoadedData:
    """Read held-out rows as the version takes them: as tasks where a reward grades the answers.

    Args:
        config: the options.
        answerer: the version.
        source: of the rows.

    Raises:
        HoneError: as :func:`hone.data.loader.load_examples`.
    """
    graded = _is_graded(config, answerer)
    return load_examples(source, mapping=config.mapping, limit=config.limit, preferences=not graded, tasks=graded)


def _is_graded(config: EvaluateConfig, answerer: Answerer) -> bool:
    return "reward" in answerer.notes and config.metric in (None, "reward")


def evaluate_judged(
    config: EvaluateConfig, answerer: Answerer, loaded: LoadedData, questions: Sequence[QuestionSet], home: Path,
    recorder: Recorder,
) -> EvaluationResult | None:  # fmt: skip
    """The evaluation by preferences or by a reward; None where answers are held against right ones.

    Args:
        config: the options.
        answerer: the version.
        loaded: as :func:`load_judged` gave them.
        questions: sets of general questions.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        ConfigError: an arm cannot take part, or the reward cannot be used.
        DataError: no row can be used.
    """
    if loaded.are_preferences:
        return _on_preferences(config, answerer, loaded, questions, home, recorder)
    if _is_graded(config, answerer):
        return _on_rewards(config, answerer, loaded, questions, home, recorder)
    return None


def _on_preferences(
    config: EvaluateConfig, answerer: Answerer, loaded: LoadedData, questions: Sequence[QuestionSet], home: Path,
    recorder: Recorder,
) -> EvaluationResult:  # fmt: skip
    """Base and tuned judge held-out pairs; what is left of the base is measured as for other versions."""

    def progress(task: str, done: int, total: int) -> None:
        recorder.record(Event("progress", {"task": task, "done": done, "total": total}))

    arms = _judging_arms(config, answerer)
    proof = measure_reloaded(answerer)
    limit = config.max_new_tokens or answer_limit(answerer)
    found = compare_on_preferences(answerer, loaded, arms, limit_tokens=limit, seed=config.seed, progress=progress)
    evaluation = found.evaluation
    verdict, retention = decide(evaluation) if answerer.is_tuned else None, None
    if "tuned" in arms and verdict is not None and config.probes and answerer.notes.get("method") != "reward":
        verdict, retention = judged_with_retention(
            verdict, config, answerer, loaded.examples, questions, home, recorder
        )
    if "tuned" in arms:
        proof += measure_merged(answerer)  # last, because merging makes the model a plain one
    if found.stopped is not None:
        proof.append(check_stops(found.stopped))
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    data = {"source": loaded.source, **loaded.ledger.summary()}
    figures = evaluation.to_json() | found.further
    return EvaluationResult(figures, evaluation.answers, verdict, proof, settings, data, retention)


def _on_rewards(
    config: EvaluateConfig, answerer: Answerer, loaded: LoadedData, questions: Sequence[QuestionSet], home: Path,
    recorder: Recorder,
) -> EvaluationResult:  # fmt: skip
    """Base and tuned answer held-out rows, and the reward that was trained on grades them."""

    def progress(arm: str, task: str, done: int) -> None:
        recorder.record(Event("progress", {"task": f"{arm}: {task}", "done": done, "total": len(examples)}))

    arms = _judging_arms(config, answerer)
    examples, data = held_out_rows(loaded, answerer)
    limit = config.max_new_tokens or int(answerer.notes["policy"]["rollout_tokens"])
    proof = measure_reloaded(answerer)
    found = compare_on_rewards(
        ArmAnswers(answerer, limit, cache_folder(home) if config.cache else None, progress), examples, arms,
        shape=task_shape(answerer, examples), home=home, seed=config.seed,
        note=lambda text: recorder.record(Event("note", {"text": text})),
    )  # fmt: skip
    verdict, retention = decide(found.evaluation) if answerer.is_tuned else None, None
    if "tuned" in arms and verdict is not None and config.probes:
        known = [one for one in examples if one.answer]
        verdict, retention = judged_with_retention(
            verdict, config, answerer, known or _answering(examples, found.answers), questions, home, recorder
        )
    if found.stopped is not None:
        proof += [*measure_merged(answerer), check_stops(found.stopped)]  # last: merging makes the model a plain one
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    figures = found.evaluation.to_json() | found.further
    return EvaluationResult(figures, found.evaluation.answers, verdict, proof, settings, data, retention)


def _answering(examples: Sequence[Example], texts: Sequence[str]) -> list[Example]:
    """Rows without answers as the tuned model answers them, by which answers of the domain are known."""
    return [
        Example((*one.prompt, Message("assistant", text)), one.tools, one.row, one.line, one.source)
        for one, text in zip(examples, texts, strict=True)
    ]


def _judging_arms(config: EvaluateConfig, answerer: Answerer) -> list[ArmName]:
    possible: list[ArmName] = ["base", "tuned"] if answerer.is_tuned else ["base"]
    refused = [arm for arm in config.arms or () if arm not in possible]
    if refused or config.against:
        raise ConfigError(
            f"{', '.join([*refused, *(config.against or ())])} cannot take part",
            where="--arms" if refused else "--against",
            why="what was learned from preferences or rewards is held against the version's base alone",
            remedy=f"use --arms {','.join(possible)}",
        )
    return list(config.arms) if config.arms else possible
