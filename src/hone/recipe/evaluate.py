"""Evaluation: every arm answers the same held-out rows, and the differences are judged with their intervals.

What each arm is asked is ``contest.py``'s, who answers ``arm_answers.py``'s, and what the answers are worth
``evaluation/``'s business. Here the parts are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import EvaluateConfig
from hone.data.split import prompt_key
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, TemplateError
from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.grounding import measure_grounding
from hone.evaluation.shape import TaskShape
from hone.evaluation.slices import slices_of
from hone.evaluation.verdict import decide
from hone.model.endpoint import Endpoint, parse_endpoint
from hone.proof.postflight import check_stops
from hone.recipe.answer_cache import cache_folder
from hone.recipe.arm_answers import ArmAnswers, endpoint_result
from hone.recipe.contest import Contender, open_documents, possible_arms, prepare, retrieved, unanswerable
from hone.recipe.finding import find_run
from hone.recipe.held_out import (
    EvaluationResult,
    answer_limit,
    held_out_rows,
    judged_with_retention,
    said_what_was_seen,
    task_shape,
)
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.judged import evaluate_judged, load_judged
from hone.recipe.question_sets import question_sets
from hone.recipe.reproving import measure_merged, measure_reloaded
from hone.recipe.rows import last_user_text
from hone.recipe.shots import TrainingRows, read_training_rows
from hone.retrieval import PassageIndex
from hone.types import ArmName, Example, JsonDict

__all__ = ["evaluate"]

Note = Callable[[str], None]

# Bits per byte compares models that read the same prompt; of the other arms it is measured where it decides.
_ARMS_WITH_BITS = frozenset({"base", "tuned"})


def evaluate(config: EvaluateConfig, *, home: Path, recorder: Recorder) -> EvaluationResult:
    """Let the arms answer held-out rows and compare them.

    Args:
        config: who answers, which rows, which metric.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        HoneError: unknown version, unusable rows, an arm that is not there, or files that are not what they were.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    def progress(arm: str, task: str, done: int) -> None:
        recorder.record(Event("progress", {"task": f"{arm}: {task}", "done": done, "total": len(examples)}))

    further = _others(config, home)
    documents, questions = open_documents(config.documents, home=home), question_sets(config, recorder)
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.version}"}))
    answerer = load_answerer(
        config.version, home=home, device=config.device, dtype=config.dtype, note=note,
        refuse_changed=not _is_run_folder(config.version),
    )  # fmt: skip
    rows = read_training_rows(answerer)
    arms, missing = possible_arms(
        _wanted(config, answerer), answerer, rows=rows, instruction=config.instruction, documents=documents
    )
    loaded = load_judged(config, answerer, _rows_of(config, answerer))
    if judged := evaluate_judged(config, answerer, loaded, questions, home, recorder):
        return said_what_was_seen(judged, answerer, loaded)
    examples, data = held_out_rows(loaded, answerer)
    limit = config.max_new_tokens or answer_limit(answerer)
    shape = task_shape(answerer, examples)
    proof = measure_reloaded(answerer)
    answers = ArmAnswers(answerer, limit, cache_folder(home) if config.cache else None, progress)
    contest = _Contest(answers, examples, shape, rows, config.instruction, documents)
    results, refused = contest.results(arms, asked_for=config.arms is not None, metric=config.metric)
    for text, endpoint in further:
        results.append(
            _other_version(text, config, home, answers, examples, note) if endpoint is None
            else endpoint_result(endpoint, examples, limit_tokens=limit, progress=progress)
        )  # fmt: skip
    _require_different_names(results)
    evaluation = evaluate_arms(
        shape, [example.answer for example in examples], [last_user_text(example) for example in examples], results,
        metric=config.metric, seed=config.seed, clusters=[prompt_key(example) for example in examples],
        row_numbers=[example.row for example in examples], grounding=_grounding(shape, examples, results, documents),
        not_run=[*missing, *refused], slices=slices_of(examples, shape),
    )  # fmt: skip
    verdict, retention = decide(evaluation) if answerer.is_tuned else None, None
    if tuned := next((result for result in results if result.arm == "tuned"), None):
        if verdict is not None and config.probes:
            verdict, retention = judged_with_retention(verdict, config, answerer, examples, questions, home, recorder)
        # last, because merging makes the model a plain one
        proof += [*measure_merged(answerer), check_stops(tuned.stopped)]
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    found = EvaluationResult(evaluation.to_json(), evaluation.answers, verdict, proof, settings, data, retention)
    return said_what_was_seen(found, answerer, loaded)


def _others(config: EvaluateConfig, home: Path) -> list[tuple[str, Endpoint | None]]:
    """The further arms, each with its endpoint where it is one; a name that is not there is refused before all work.

    Raises:
        VersionError: there is no such version or base.
    """
    found = [(text, parse_endpoint(text)) for text in config.against or ()]
    for text, endpoint in found:
        if endpoint is None:
            find_run(text, home, note=lambda _text: None)
    return found


def _is_run_folder(reference: str) -> bool:
    """A run that may not be registered yet: what is wrong with it is measured, and registered as unproven."""
    return (Path(reference) / "run.json").is_file()


def _wanted(config: EvaluateConfig, answerer: Answerer) -> Sequence[ArmName] | None:
    """The arms as given; of a base by itself only what the user gave something for."""
    if config.arms is not None or answerer.is_tuned:
        return config.arms
    own: list[ArmName] = ["base"]
    own += ["prompted"] if config.instruction else []
    own += ["retrieval"] if config.documents else []
    return own


@dataclass(frozen=True, slots=True)
class _Contest:
    """The version's own arms on its rows."""

    answers: ArmAnswers
    examples: Sequence[Example]
    shape: TaskShape
    rows: TrainingRows
    instruction: str | None
    documents: PassageIndex | None

    def results(
        self, arms: Sequence[ArmName], *, asked_for: bool, metric: str | None
    ) -> tuple[list[ArmResult], list[dict[str, str]]]:
        """Each arm's answers; an arm whose prompts the template refuses is told, unless the user asked for it."""
        results: list[ArmResult] = []
        refused: list[dict[str, str]] = []
        for arm in arms:
            try:
                contender = self._prepared(arm)
            except TemplateError as error:
                if asked_for or arm in _ARMS_WITH_BITS:
                    raise
                refused.append(unanswerable(error, arm))
                continue
            with_bits = arm in _ARMS_WITH_BITS or metric == "bits_per_byte"
            results.append(self.answers.result(contender, with_bits=with_bits))
        return results, refused

    def _prepared(self, arm: ArmName) -> Contender:
        return prepare(
            arm,
            self.answers.answerer,
            self.examples,
            limit_tokens=self.answers.limit_tokens,
            shape=self.shape,
            rows=self.rows,
            instruction=self.instruction,
            documents=self.documents,
            bits_per_byte=self.answers.base_bits_per_byte,
        )


def _other_version(
    name: str, config: EvaluateConfig, home: Path, own: ArmAnswers, examples: Sequence[Example], note: Note
) -> ArmResult:
    """Another version or base on the same rows, loaded beside the first."""
    other = load_answerer(name, home=home, device=config.device, dtype=config.dtype, note=note)
    answers = replace(own, answerer=other)
    nothing = TrainingRows((), ())
    contest = _Contest(answers, examples, task_shape(other, examples), nothing, None, None)
    contender = contest._prepared("tuned" if other.is_tuned else "base")
    contender = replace(contender, how={"model": other.name, "base": other.base.name})
    return answers.result(contender, name=other.name, with_bits=True)


def _require_different_names(results: Sequence[ArmResult]) -> None:
    names = [result.arm for result in results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)} would answer twice", where="--against", remedy="name each other version once"
        )


def _grounding(
    shape: TaskShape, examples: Sequence[Example], results: Sequence[ArmResult], documents: PassageIndex | None
) -> JsonDict | None:
    if documents is None:
        return None
    return measure_grounding(
        shape,
        [last_user_text(example) for example in examples],
        [example.answer for example in examples],
        {result.arm: result.predictions for result in results},
        documents.passages,
        retrieved(documents, examples),
    )


def _rows_of(config: EvaluateConfig, answerer: Answerer) -> str:
    if config.data is not None:
        return config.data
    stored = None if answerer.run_folder is None else answerer.run_folder / "held_out.jsonl"
    if stored is None or not stored.exists():
        raise ConfigError(
            f"{answerer.name} has no held-out rows of its own",
            where="DATA",
            remedy=f"name a file: hone evaluate {config.version} held_out.jsonl",
        )
    return str(stored)
