"""Held-out rows for a version that was trained by rewards: base and tuned answer, and the stored reward grades them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hone.data.split import prompt_key
from hone.errors import DataError
from hone.evaluation.arms import ArmResult
from hone.evaluation.outcome import Evaluation
from hone.evaluation.rewards import GradedArm, GradedRows, compare_rewards
from hone.evaluation.shape import TaskShape
from hone.recipe.arm_answers import ArmAnswers
from hone.recipe.contest import prepare
from hone.recipe.rewards import GradedAnswer, Reward, open_stored_reward
from hone.recipe.rollouts import repetition
from hone.recipe.rows import last_user_text
from hone.recipe.shots import TrainingRows
from hone.types import ArmName, Example, JsonDict, Task

__all__ = ["ComparedRewards", "compare_on_rewards"]


@dataclass(frozen=True, slots=True)
class ComparedRewards:
    """What held-out rewards gave.

    Args:
        evaluation: the comparison.
        further: what the result holds besides.
        stopped: whether the tuned model ended its answers; None where it gave none.
        answers: its answers, or the base's where it gave none.
    """

    evaluation: Evaluation
    further: JsonDict
    stopped: list[bool] | None
    answers: list[str]


def compare_on_rewards(
    answers: ArmAnswers,
    examples: Sequence[Example],
    arms: Sequence[ArmName],
    *,
    shape: TaskShape,
    home: Path,
    seed: int,
    note: Callable[[str], None],
) -> ComparedRewards:
    """Let the arms answer held-out rows, and grade the answers.

    Args:
        answers: of the version.
        examples: tasks, at least one.
        arms: base, tuned or both.
        shape: the kind of answers.
        home: hone's home folder.
        seed: of the bootstrap.
        note: receives sentences for the user.

    Raises:
        ConfigError: the reward is no longer there, or fails.
        DataError: a row was not read as a task.
    """
    notes = answers.answerer.notes
    base = answers.answerer.base
    dtype = str(base.dtype).removeprefix("torch.")
    opened = partial(open_stored_reward, home=home, device=base.device, dtype=dtype, note=note)
    reward = opened(notes["reward"])
    stored = notes.get("watch_reward")
    watch = None if stored is None else opened(stored)
    graded = []
    for arm in arms:
        contender = prepare(
            arm, answers.answerer, examples, limit_tokens=answers.limit_tokens, shape=shape, rows=TrainingRows((), ()),
            instruction=None, documents=None, bits_per_byte=answers.base_bits_per_byte,
        )  # fmt: skip
        graded.append(_graded(answers, answers.result(contender, with_bits=False), examples, reward, watch))
    rows = GradedRows(
        [one.row for one in examples],
        [last_user_text(one) for one in examples],
        [one.answer for one in examples],
        [prompt_key(one) for one in examples],
    )
    evaluation, further = compare_rewards(rows, graded, shape=shape, seed=seed)
    shown = graded[-1].result
    stopped = list(map(bool, shown.stopped)) if shown.arm == "tuned" else None
    return ComparedRewards(evaluation, further, stopped, list(shown.predictions))


def _graded(
    answers: ArmAnswers, result: ArmResult, examples: Sequence[Example], reward: Reward, watch: Reward | None
) -> GradedArm:
    told = [
        GradedAnswer(example, _item(example), text) for example, text in zip(examples, result.predictions, strict=True)
    ]
    tokenizer = answers.answerer.base.tokenizer
    repeated = [repetition(tokenizer.encode(text, add_special_tokens=False)) for text in result.predictions]
    return GradedArm(result, reward(told), None if watch is None else watch(told), repeated)


def _item(example: Example) -> JsonDict:
    if not isinstance(example, Task):
        raise DataError("a reward grades rows with their columns", where=example.source)
    return example.item
