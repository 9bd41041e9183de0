"""Evaluation: every arm answers the same held-out rows, and the differences are judged with their intervals.

What each arm is asked is ``contest.py``'s, who answers ``arm_answers.py``'s, and what the answers are worth
``evaluation/``'s business. Here the parts are put together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import EvaluateConfig
from hone.data.ledger import Ledger
from hone.data.loader import LoadedData, load_examples
from hone.data.split import prompt_key
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, DataError, TemplateError
from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.forgetting import with_retention
from hone.evaluation.grounding import measure_grounding
from hone.evaluation.shape import TaskShape, detect_shape
from hone.evaluation.slices import slices_of
from hone.evaluation.verdict import Verdict, decide
from hone.model.endpoint import parse_endpoint
from hone.proof.invariant import Invariant
from hone.proof.postflight import check_stops
from hone.recipe.answer_cache import cache_folder
from hone.recipe.arm_answers import ArmAnswers, endpoint_result
from hone.recipe.contest import Contender, open_documents, possible_arms, prepare, retrieved, unanswerable
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.preference_evaluation import compare_on_preferences
from hone.recipe.question_sets import QuestionSet, question_sets
from hone.recipe.reproving import measure_merged, measure_reloaded
from hone.recipe.retention import measure_retention
from hone.recipe.rows import last_user_text, render_rows
from hone.recipe.shots import TrainingRows, read_training_rows
from hone.retrieval import PassageIndex
from hone.types import ArmName, Example, JsonDict

__all__ = ["EvaluationResult", "evaluate"]

Note = Callable[[str], None]

# Answers may run half as long again as the longest one trained on, so that a model that rambles is seen to.
_ANSWER_ROOM = 1.5
_SHORTEST_LIMIT_TOKENS = 32
_LIMIT_TOKENS = 512
_BASE_LIMIT_TOKENS = 256
# Bits per byte compares models that read the same prompt; of the other arms it is measured where it decides.
_ARMS_WITH_BITS = frozenset({"base", "tuned"})


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluation gives.

    Args:
        evaluation: the ``evaluation`` object of the result.
        answers: every held-out row with each arm's answer and score.
        verdict: what it allows to say; None for a base alone, where there is nothing to decide.
        proof: invariants 10, 11 and 12, where a tuned model answered.
        settings: how answers were made, to repeat them.
        data: row counts of the held-out rows.
        retention: what is left of the base's general ability; None where it was not measured.
    """

    evaluation: JsonDict
    answers: list[JsonDict]
    verdict: Verdict | None
    proof: list[Invariant]
    settings: JsonDict
    data: JsonDict
    retention: JsonDict | None = None


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

    further = [(text, parse_endpoint(text)) for text in config.against or ()]
    documents, questions = open_documents(config.documents, home=home), question_sets(config)
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.version}"}))
    answerer = load_answerer(
        config.version, home=home, device=config.device, dtype=config.dtype, note=note,
        refuse_changed=not _is_run_folder(config.version),
    )  # fmt: skip
    rows = read_training_rows(answerer)
    arms, missing = possible_arms(
        _wanted(config, answerer), answerer, rows=rows, instruction=config.instruction, documents=documents
    )
    loaded = load_examples(_rows_of(config, answerer), mapping=config.mapping, limit=config.limit, preferences=True)
    if loaded.are_preferences:
        return _on_preferences(config, answerer, loaded, questions, home, recorder)
    examples, data = _held_out(loaded, answerer)
    limit = config.max_new_tokens or _limit(answerer)
    shape = _shape(answerer, examples)
    proof = measure_reloaded(answerer)
    answers = ArmAnswers(answerer, limit, cache_folder(home) if config.cache else None, progress)
    contest = _Contest(answers, examples, shape, rows, config.instruction, documents)
    results, refused = contest.results(arms, asked_for=config.arms is not None, metric=config.metric)
    for text, endpoint in further:
        if endpoint is None:
            results.append(_other_version(text, config, home, answers, examples, note))
        else:
            results.append(endpoint_result(endpoint, examples, limit_tokens=limit, progress=progress))
    _require_different_names(results)
    evaluation = evaluate_arms(
        shape, [example.answer for example in examples], [last_user_text(example) for example in examples], results,
        metric=config.metric, seed=config.seed, clusters=[prompt_key(example) for example in examples],
        row_numbers=[example.row for example in examples], grounding=_grounding(shape, examples, results, documents),
        not_run=[*missing, *refused], slices=slices_of(examples, shape),
    )  # fmt: skip
    verdict, retention = decide(evaluation) if answerer.is_tuned else None, None
    tuned = next((result for result in results if result.arm == "tuned"), None)
    if tuned is not None:
        if verdict is not None and config.probes:
            verdict, retention = _with_retention(verdict, config, answerer, examples, questions, home, recorder)
        # last, because merging makes the model a plain one
        proof += [*measure_merged(answerer), check_stops(tuned.stopped)]
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    return EvaluationResult(evaluation.to_json(), evaluation.answers, verdict, proof, settings, data, retention)


def _held_out(loaded: LoadedData, answerer: Answerer) -> tuple[list[Example], JsonDict]:
    """The rows that every arm answers, and how many there were."""
    examples, _ = render_rows([_last_turn_alone(e) for e in loaded.examples], answerer.renderer, loaded.ledger)
    _require_rows(examples, loaded.ledger, loaded.source)
    return examples, {"source": loaded.source, **loaded.ledger.summary()}


def _with_retention(
    verdict: Verdict,
    config: EvaluateConfig,
    answerer: Answerer,
    examples: Sequence[Example],
    questions: Sequence[QuestionSet],
    home: Path,
    recorder: Recorder,
) -> tuple[Verdict, JsonDict]:
    """What is left of the base's general ability, and the verdict that knows it."""
    started = time.perf_counter()
    measured = measure_retention(
        answerer, keep=config.keep, questions=questions,
        domain_answers=[example.answer for example in examples], home=home, recorder=recorder, seed=config.seed,
    )  # fmt: skip
    took = {"seconds": round(time.perf_counter() - started, 3), "strength": answerer.notes.get("strength")}
    return with_retention(verdict, measured), measured.to_json() | took


def _on_preferences(
    config: EvaluateConfig, answerer: Answerer, loaded: LoadedData, questions: Sequence[QuestionSet], home: Path,
    recorder: Recorder,
) -> EvaluationResult:  # fmt: skip
    """Base and tuned judge held-out pairs; what is left of the base is measured as for other versions."""

    def progress(task: str, done: int, total: int) -> None:
        recorder.record(Event("progress", {"task": task, "done": done, "total": total}))

    arms = _judging_arms(config, answerer)
    proof = measure_reloaded(answerer)
    limit = config.max_new_tokens or _limit(answerer)
    found = compare_on_preferences(answerer, loaded, arms, limit_tokens=limit, seed=config.seed, progress=progress)
    evaluation = found.evaluation
    verdict, retention = decide(evaluation) if answerer.is_tuned else None, None
    if "tuned" in arms and verdict is not None and config.probes and answerer.notes.get("method") != "reward":
        verdict, retention = _with_retention(verdict, config, answerer, loaded.examples, questions, home, recorder)
    if "tuned" in arms:
        proof += measure_merged(answerer)  # last, because merging makes the model a plain one
    if found.stopped is not None:
        proof.append(check_stops(found.stopped))
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    data = {"source": loaded.source, **loaded.ledger.summary()}
    figures = evaluation.to_json() | found.further
    return EvaluationResult(figures, evaluation.answers, verdict, proof, settings, data, retention)


def _judging_arms(config: EvaluateConfig, answerer: Answerer) -> list[ArmName]:
    possible: list[ArmName] = ["base", "tuned"] if answerer.is_tuned else ["base"]
    refused = [arm for arm in config.arms or () if arm not in possible]
    if refused or config.against:
        raise ConfigError(
            f"{', '.join([*refused, *(config.against or ())])} cannot judge preferences",
            where="--arms" if refused else "--against",
            why="pairs of answers are judged by likelihood or score, of the version and its base",
            remedy=f"use --arms {','.join(possible)}",
        )
    return list(config.arms) if config.arms else possible


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
    contest = _Contest(answers, examples, _shape(other, examples), nothing, None, None)
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


def _require_rows(examples: Sequence[Example], ledger: Ledger, source: str) -> None:
    if not examples:
        raise DataError(
            f"none of the {ledger.rows} held-out rows can be used",
            where=source,
            details=[f"{source}:{entry.line}: {entry.reason}" for entry in ledger.dropped_entries()],
            remedy="mend the rows; `hone data show` shows how each is read",
        )


def _last_turn_alone(example: Example) -> Example:
    """The last supervised answer is what the arms are asked for; earlier answers are part of the question."""
    last = max(index for index, message in enumerate(example.messages) if message.supervised)
    earlier = (replace(message, supervised=False) for message in example.messages[:last])
    return replace(example, messages=(*earlier, example.messages[last]))


def _shape(answerer: Answerer, examples: Sequence[Example]) -> TaskShape:
    """As the training answers showed it: a few held-out rows may look like another kind of task."""
    stored = answerer.notes.get("shape")
    if stored is None:
        return detect_shape([example.answer for example in examples], [last_user_text(e) for e in examples])
    return TaskShape(stored["kind"], tuple(stored["labels"]), stored["reason"])


def _limit(answerer: Answerer) -> int:
    longest: int | None = answerer.notes.get("longest_answer_tokens")
    if longest is None:
        return _BASE_LIMIT_TOKENS
    return min(_LIMIT_TOKENS, max(_SHORTEST_LIMIT_TOKENS, round(_ANSWER_ROOM * longest)))
