"""Evaluation: every arm answers the same held-out rows, and the difference is judged with its interval.

Base and tuned share one model in memory: the adapter is switched off for the base, so that nothing else can differ.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import EvaluateConfig
from hone.data.ledger import Ledger
from hone.data.loader import load_examples
from hone.data.split import prompt_key
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, DataError
from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.forgetting import with_retention
from hone.evaluation.likelihood import answer_bits
from hone.evaluation.shape import TaskShape, detect_shape
from hone.evaluation.verdict import Verdict, decide
from hone.model.generate import Generation, SamplingSettings, generate
from hone.model.lora import adapter_disabled
from hone.proof.invariant import Invariant
from hone.proof.postflight import check_probe, check_stops
from hone.recipe.inference import Answerer, load_answerer, training_path
from hone.recipe.retention import measure_retention
from hone.recipe.rows import last_user_text, render_rows
from hone.recipe.sft import PROBE_FILE
from hone.types import ArmName, Example, JsonDict, TokenSequence

__all__ = ["EvaluationResult", "evaluate"]

# Answers may run half as long again as the longest one trained on, so that a model that rambles is seen to.
_ANSWER_ROOM = 1.5
_SHORTEST_LIMIT_TOKENS = 32
_LIMIT_TOKENS = 512
_BASE_LIMIT_TOKENS = 256
_NOT_YET = "this version of hone measures the arms base and tuned"


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluation gives.

    Args:
        evaluation: the ``evaluation`` object of the result.
        answers: every held-out row with each arm's answer and score.
        verdict: what it allows to say; None for a base alone, where there is nothing to decide.
        proof: invariants 10 and 12, where a tuned model answered.
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

    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.version}"}))
    answerer = load_answerer(config.version, home=home, device=config.device, dtype=config.dtype, note=note)
    arms = _arms(config.arms, answerer)
    source = _rows_of(config, answerer)
    loaded = load_examples(source, mapping=config.mapping, limit=config.limit)
    examples, _ = render_rows([_last_turn_alone(e) for e in loaded.examples], answerer.renderer, loaded.ledger)
    _require_rows(examples, loaded.ledger, source)
    sequences = [answerer.renderer.render(example).sequences[-1] for example in examples]
    references = [example.answer for example in examples]
    limit = config.max_new_tokens or _limit(answerer, sequences)

    proof: list[Invariant] = []
    if answerer.run_folder is not None and (answerer.run_folder / PROBE_FILE).exists():
        forward, attention = training_path(answerer.base.model, reference=answerer.reference_path)
        with attention:
            proof.append(check_probe(answerer.run_folder / PROBE_FILE, answerer.base.model, forward=forward))
    results = [_answer(arm, answerer, examples, sequences, limit, recorder) for arm in arms]
    evaluation = evaluate_arms(
        _shape(answerer, examples),
        references,
        [last_user_text(example) for example in examples],
        results,
        metric=config.metric,
        seed=config.seed,
        clusters=[prompt_key(example) for example in examples],
        row_numbers=[example.row for example in examples],
    )
    tuned = next((result for result in results if result.arm == "tuned"), None)
    if tuned is not None:
        proof.append(check_stops(tuned.stopped))
    verdict = decide(evaluation) if answerer.is_tuned else None
    retention = None
    if verdict is not None and tuned is not None and config.probes:
        measured = measure_retention(
            answerer, keep=config.keep, per_skill=config.probes, files=config.retention or (),
            domain_answers=references, home=home, recorder=recorder, seed=config.seed,
        )  # fmt: skip
        verdict = with_retention(verdict, measured)
        retention = measured.to_json() | {"strength": answerer.notes.get("strength")}
    settings = {"max_new_tokens": limit, "temperature": 0.0, "seed": config.seed, "model": answerer.name}
    data = {"source": source, **loaded.ledger.summary()}
    return EvaluationResult(evaluation.to_json(), evaluation.answers, verdict, proof, settings, data, retention)


def _arms(wanted: Sequence[ArmName] | None, answerer: Answerer) -> list[ArmName]:
    possible: list[ArmName] = ["base", "tuned"] if answerer.is_tuned else ["base"]
    missing = [arm for arm in wanted or () if arm not in possible]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} cannot answer here",
            where="--arms",
            why=_NOT_YET if answerer.is_tuned else f"{answerer.name} is a base, so there is nothing tuned",
            remedy=f"use --arms {','.join(possible)}",
        )
    return list(wanted) if wanted else possible


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


def _limit(answerer: Answerer, sequences: Sequence[TokenSequence]) -> int:
    longest: int | None = answerer.notes.get("longest_answer_tokens")
    if longest is None:
        return _BASE_LIMIT_TOKENS
    return min(_LIMIT_TOKENS, max(_SHORTEST_LIMIT_TOKENS, round(_ANSWER_ROOM * longest)))


def _answer(
    arm: ArmName,
    answerer: Answerer,
    examples: Sequence[Example],
    sequences: Sequence[TokenSequence],
    limit: int,
    recorder: Recorder,
) -> ArmResult:
    def progress(task: str, done: int) -> None:
        recorder.record(Event("progress", {"task": f"{arm}: {task}", "done": done, "total": len(examples)}))

    if answerer.base_renderer is not None and arm == "base":
        sequences = [answerer.base_renderer.render(example).sequences[-1] for example in examples]
    model = answerer.base.model
    switch: AbstractContextManager[None] = adapter_disabled(model) if arm == "base" else nullcontext()
    prompts = [answerer.prompt(example.messages[:-1], list(map(dict, example.tools)), arm=arm) for example in examples]
    with switch:
        started = time.perf_counter()
        answers: list[Generation] = generate(
            model,
            prompts,
            stop_ids=answerer.renderer_of(arm).stop_ids,
            settings=SamplingSettings(max_new_tokens=limit),
            on_done=lambda done: progress("answers", done),
        )
        seconds = time.perf_counter() - started
        forward, attention = training_path(model, reference=answerer.reference_path)
        with attention:
            bits = answer_bits(model, sequences, forward=forward, on_done=lambda done: progress("likelihood", done))
    return ArmResult(
        arm=arm,
        predictions=[answerer.text(answer.ids).strip() for answer in answers],
        stopped=[answer.stopped for answer in answers],
        output_tokens=[len(answer.ids) for answer in answers],
        seconds=round(seconds, 3),
        bits=bits,
        reference_bytes=[max(1, len(example.answer.encode())) for example in examples],
    )
