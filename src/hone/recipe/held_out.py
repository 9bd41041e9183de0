"""What every evaluation shares: the held-out rows, the longest answer, retention, and what it gives."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import EvaluateConfig
from hone.data.ledger import Ledger
from hone.data.loader import LoadedData
from hone.data.manifest import prompt_hash
from hone.engine.events import Recorder
from hone.errors import DataError, StorageError
from hone.evaluation.forgetting import with_retention
from hone.evaluation.shape import TaskShape
from hone.evaluation.verdict import Verdict
from hone.proof.invariant import Invariant
from hone.recipe.inference import Answerer
from hone.recipe.question_sets import QuestionSet
from hone.recipe.retention import measure_retention
from hone.recipe.rows import render_rows, shape_of_answers
from hone.types import Example, JsonDict

__all__ = [
    "EvaluationResult",
    "answer_limit",
    "held_out_rows",
    "judged_with_retention",
    "require_rows",
    "said_what_was_seen",
    "task_shape",
]

# Answers may run half as long again as the longest one trained on, so that a model that rambles is seen to.
_ANSWER_ROOM = 1.5
_SHORTEST_LIMIT_TOKENS = 32
_LIMIT_TOKENS = 512
_BASE_LIMIT_TOKENS = 256


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


def said_what_was_seen(result: EvaluationResult, answerer: Answerer, loaded: LoadedData) -> EvaluationResult:
    """The same, with a warning where rows were asked that the version was trained on; such rows ship nothing.

    Args:
        result: of the evaluation.
        answerer: the version.
        loaded: the rows that it was judged on.

    Raises:
        StorageError: the run's manifest is damaged.
    """
    manifest = None if answerer.run_folder is None else answerer.run_folder / "manifest.json"
    if result.verdict is None or manifest is None or not manifest.is_file():
        return result
    try:
        known = json.loads(manifest.read_text(encoding="utf-8"))
        asked = {row["prompt_sha256"] for part in ("train", "validation") for row in known[part]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"cannot be read: {error}", where=str(manifest), why="it says which rows the version has seen",
            remedy="restore it from a copy, or train again",
        ) from error  # fmt: skip
    seen = sum(prompt_hash(one) in asked for one in loaded.examples)
    if not seen:
        return result
    told = f"{seen} of {len(loaded.examples)} rows have a prompt that the version was trained on: this measures memory."
    verdict = replace(result.verdict, warnings=(told, *result.verdict.warnings))
    if verdict.decision == "ship":
        verdict = replace(verdict, decision="not_enough_evidence", reason=f"{told} {verdict.reason}")
    return replace(result, verdict=verdict)


def held_out_rows(loaded: LoadedData, answerer: Answerer) -> tuple[list[Example], JsonDict]:
    """The rows that every arm answers, and how many there were.

    Args:
        loaded: as read.
        answerer: renders them.

    Raises:
        DataError: none can be used.
    """
    examples, _ = render_rows([_last_turn_alone(e) for e in loaded.examples], answerer.renderer, loaded.ledger)
    require_rows(examples, loaded.ledger, loaded.source)
    return examples, {"source": loaded.source, **loaded.ledger.summary()}


def judged_with_retention(
    verdict: Verdict,
    config: EvaluateConfig,
    answerer: Answerer,
    examples: Sequence[Example],
    questions: Sequence[QuestionSet],
    home: Path,
    recorder: Recorder,
) -> tuple[Verdict, JsonDict]:
    """What is left of the base's general ability, and the verdict that knows it.

    Args:
        verdict: without it.
        config: the options.
        answerer: a tuned model.
        examples: whose answers are of the domain.
        questions: sets of general questions.
        home: hone's home folder.
        recorder: receives events.
    """
    started = time.perf_counter()
    measured = measure_retention(
        answerer, keep=config.keep, questions=questions,
        domain_answers=[example.answer for example in examples], home=home, recorder=recorder, seed=config.seed,
    )  # fmt: skip
    took = {"seconds": round(time.perf_counter() - started, 3), "strength": answerer.notes.get("strength")}
    return with_retention(verdict, measured), measured.to_json() | took


def task_shape(answerer: Answerer, examples: Sequence[Example]) -> TaskShape:
    """As the training answers showed it: a few held-out rows may look like another kind of task.

    Args:
        answerer: knows what training saw.
        examples: the held-out rows.
    """
    stored = answerer.notes.get("shape")
    if stored is None:
        return shape_of_answers(examples)
    return TaskShape(stored["kind"], tuple(stored["labels"]), stored["reason"])


def answer_limit(answerer: Answerer) -> int:
    """The longest answer in tokens, from those trained on.

    Args:
        answerer: knows what training saw.
    """
    longest: int | None = answerer.notes.get("longest_answer_tokens")
    if longest is None:
        return _BASE_LIMIT_TOKENS
    return min(_LIMIT_TOKENS, max(_SHORTEST_LIMIT_TOKENS, round(_ANSWER_ROOM * longest)))


def require_rows(examples: Sequence[Example], ledger: Ledger, source: str) -> None:
    """Refuse held-out data without a row that can be used.

    Args:
        examples: that can be.
        ledger: what became of all rows.
        source: of the rows.

    Raises:
        DataError: there is none; what is wrong with each is told.
    """
    if not examples:
        raise DataError(
            f"none of the {ledger.rows} rows can be used",
            where=source,
            details=[f"{source}:{entry.line}: {entry.reason}" for entry in ledger.dropped_entries()],
            remedy="mend the rows; `hone data show` shows how each is read",
        )


def _last_turn_alone(example: Example) -> Example:
    """The last supervised answer is what the arms are asked for; earlier answers are part of the question."""
    last = max(index for index, message in enumerate(example.messages) if message.supervised)
    earlier = (replace(message, supervised=False) for message in example.messages[:last])
    return replace(example, messages=(*earlier, example.messages[last]))
