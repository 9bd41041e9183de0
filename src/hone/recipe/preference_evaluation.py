"""Held-out preferences for a version: which answer the base and the tuned model find better, and what they answer.

The base's own judgement is the log-probability a token that it gives each answer. A tuned model is judged as its method
trains it: by how much likelier than under the base an answer has become (the implicit reward of DPO, IPO and KTO), by
its own log-probability a token (ORPO, SimPO), or by its score (a reward model).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hone.data.answers import AnswerRenderer
from hone.data.loader import LoadedData
from hone.data.split import prompt_key
from hone.evaluation.outcome import Evaluation
from hone.evaluation.preferences import ArmMargins, JudgedPair, compare_preferences
from hone.evaluation.shape import TaskShape
from hone.model.generate import SamplingSettings, generate
from hone.model.lora import adapter_disabled
from hone.recipe.held_out import require_rows
from hone.recipe.inference import Answerer, training_path
from hone.recipe.preference import WITH_REFERENCE
from hone.recipe.references import answer_logprobs
from hone.recipe.reward import answer_scores
from hone.recipe.rows import last_user_text, render_rows, shape_of_answers
from hone.types import ArmName, JsonDict, Preference, TokenSequence

__all__ = ["ComparedPreferences", "compare_on_preferences"]

# Prompts that the arms answer, to be looked at and to see whether answers end; the judgement needs none.
_ANSWERED_ROWS = 24
_MAX_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class ComparedPreferences:
    """What held-out preferences gave.

    Args:
        evaluation: the comparison.
        further: what the result holds besides.
        stopped: whether the tuned model ended its answers; None where it wrote none.
    """

    evaluation: Evaluation
    further: JsonDict
    stopped: list[bool] | None


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Held-out pairs as indices into all rendered answers; of a judged answer both indices are its own."""

    examples: list[Preference]
    sequences: list[TokenSequence]
    judged: list[JudgedPair]
    better: list[int]
    worse: list[int]


def compare_on_preferences(
    answerer: Answerer,
    loaded: LoadedData,
    arms: Sequence[ArmName],
    *,
    limit_tokens: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> ComparedPreferences:
    """Let the arms judge held-out pairs, and answer some of their prompts.

    Args:
        answerer: as loaded.
        loaded: preferences.
        arms: base, tuned or both.
        limit_tokens: of an answer.
        seed: of the bootstrap.
        progress: told a task, how much of it is done, and of how much.
    """
    pairs = _pairs(answerer, loaded)
    require_rows(pairs.examples, loaded.ledger, loaded.source)
    method = str(answerer.notes.get("method", "sft"))
    logprobs: dict[ArmName, list[float]] = {}
    # a reward model gives scores; of the others the tuned model's reward is held against the base
    wanted: list[ArmName] = ["base", "tuned"] if "tuned" in arms and method != "reward" else ["base"]
    for arm in wanted:
        with _switch(answerer, arm):
            forward, path = training_path(answerer.base.model, reference=answerer.reference_path)
            with path:
                logprobs[arm] = answer_logprobs(
                    answerer.base.model, pairs.sequences, forward=forward, max_tokens=_MAX_TOKENS,
                    on_done=lambda done, arm=arm: progress(f"{arm}: likelihood", done, len(pairs.sequences)),  # type: ignore[misc]
                )  # fmt: skip
    found = []
    for arm in arms:
        values, how, scale = _values(arm, method, logprobs, pairs, answerer)
        found.append(_answered(answerer, pairs, arm, _margins(pairs, values, scale), how, limit_tokens, progress,
                               is_log_odds=scale is not None and not _is_judged(pairs)))  # fmt: skip
    rows = {example.row: example for example in pairs.examples}
    evaluation, further = compare_preferences(
        pairs.judged, found, shape=_shape(answerer, pairs), seed=seed,
        prompts={row: last_user_text(example) for row, example in rows.items()},
        references={row: ("(disliked) " if example.liked is False else "") + example.answer
                    for row, example in rows.items()},
    )  # fmt: skip
    tuned = next((arm for arm in found if arm.arm == "tuned"), None)
    stopped = None if tuned is None or not tuned.stopped else list(tuned.stopped.values())
    return ComparedPreferences(evaluation, further, stopped)


def _pairs(answerer: Answerer, loaded: LoadedData) -> _Pairs:
    examples, rendered = render_rows(loaded.examples, AnswerRenderer(answerer.renderer), loaded.ledger)
    found = _Pairs([], [], [], [], [])
    for example in examples:
        assert isinstance(example, Preference), "the rows are preferences"
        found.examples.append(example)
        start, sequences = len(found.sequences), rendered[example.row]
        found.sequences.extend(sequences)
        lengths = [sequence.num_supervised for sequence in sequences]
        if example.liked is not None:
            found.judged.append(JudgedPair(example.row, prompt_key(example), 0, 0, example.liked))
            found.better.append(start)
            found.worse.append(start)
        for better, worse in example.pairs:
            found.judged.append(JudgedPair(example.row, prompt_key(example), lengths[better], lengths[worse]))
            found.better.append(start + better)
            found.worse.append(start + worse)
    return found


def _is_judged(pairs: _Pairs) -> bool:
    return pairs.better == pairs.worse


def _values(
    arm: ArmName, method: str, logprobs: dict[ArmName, list[float]], pairs: _Pairs, answerer: Answerer
) -> tuple[list[float], str, float | None]:
    """What the arm finds each answer worth, in words too; and the scale that makes it log-odds, where there is one."""
    if arm == "tuned" and method in WITH_REFERENCE:
        values = [new - old for new, old in zip(logprobs["tuned"], logprobs["base"], strict=True)]
        options, how = answerer.notes["preference"], "how much likelier the answer has become than under the base"
        if options["length_normalised"] and method != "kto":
            lengths = [max(1, sequence.num_supervised) for sequence in pairs.sequences]
            values = [value / length for value, length in zip(values, lengths, strict=True)]
            how += ", a token"
        return values, how, float(options["beta"]) if method == "dpo" else None
    if arm == "tuned" and method == "reward":
        return answer_scores(answerer, pairs.sequences), "the score of the reward model", 1.0
    tokens = [max(1, sequence.num_supervised) for sequence in pairs.sequences]
    values = [one / count for one, count in zip(logprobs[arm], tokens, strict=True)]
    return values, "log-probability of the answer, a token", None


def _margins(pairs: _Pairs, values: Sequence[float], scale: float | None) -> list[float]:
    if _is_judged(pairs):
        return [values[at] for at in pairs.better]
    factor = 1.0 if scale is None else scale
    return [factor * (values[better] - values[worse]) for better, worse in zip(pairs.better, pairs.worse, strict=True)]


def _switch(answerer: Answerer, arm: ArmName) -> AbstractContextManager[None]:
    return adapter_disabled(answerer.base.model) if arm == "base" and answerer.is_tuned else nullcontext()


def _answered(
    answerer: Answerer,
    pairs: _Pairs,
    arm: ArmName,
    margins: list[float],
    how: str,
    limit_tokens: int,
    progress: Callable[[str, int, int], None],
    *,
    is_log_odds: bool,
) -> ArmMargins:
    """The arm's margins, with answers to some of the prompts; a reward model writes none."""
    if answerer.notes.get("method") == "reward":
        return ArmMargins(arm, margins, how, is_log_odds)
    shown = pairs.examples[:: max(1, -(-len(pairs.examples) // _ANSWERED_ROWS))]
    prompts = [answerer.prompt(example.prompt, list(map(dict, example.tools)), arm=arm) for example in shown]
    started = time.perf_counter()
    with _switch(answerer, arm):
        answers = generate(
            answerer.base.model, prompts, stop_ids=answerer.renderer_of(arm).stop_ids,
            settings=SamplingSettings(max_new_tokens=limit_tokens),
            on_done=lambda done: progress(f"{arm}: answers", done, len(prompts)),
        )  # fmt: skip
    return ArmMargins(
        arm=arm,
        margins=margins,
        how=how,
        is_log_odds=is_log_odds,
        texts={example.row: answerer.text(one.ids).strip() for example, one in zip(shown, answers, strict=True)},
        stopped={example.row: one.stopped for example, one in zip(shown, answers, strict=True)},
        tokens=sum(len(one.ids) for one in answers),
        seconds=round(time.perf_counter() - started, 3),
    )


def _shape(answerer: Answerer, pairs: _Pairs) -> TaskShape:
    stored = answerer.notes.get("shape")
    if stored is not None:
        return TaskShape(stored["kind"], tuple(stored["labels"]), stored["reason"])
    return shape_of_answers(pairs.examples)
