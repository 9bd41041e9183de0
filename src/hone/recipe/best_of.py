"""Best of n: several answers are drawn, a reward model scores each, and the best one is given.

The simplest use of a reward model, and the baseline of reinforcement (Stiennon et al. 2020; Nakano et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hone.config.chat import GenerateConfig
from hone.data.answers import AnswerRenderer
from hone.errors import ModelError
from hone.recipe.answer import Answer, Conversation
from hone.recipe.inference import load_answerer
from hone.recipe.reward import answer_scores
from hone.types import ArmName, Example, Message

__all__ = ["ScoredAnswer", "best_answers"]


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An answer and what the reward model finds it worth; None where it is empty, which nothing can score."""

    answer: Answer
    score: float | None


def best_answers(
    conversation: Conversation, config: GenerateConfig, *, arm: ArmName, home: Path, note: Callable[[str], None]
) -> list[ScoredAnswer]:
    """Draw ``best_of`` answers and score them, the best first; of equal scores the one drawn first.

    Args:
        conversation: with who answers.
        config: the message, ``best_of`` and ``reward``.
        arm: ``tuned`` or ``base``.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        ConfigError: ``reward`` is no reward model.
        ModelError: all answers are empty.
        HoneError: the reward model cannot be loaded, or an answer cannot be rendered for it.
    """
    assert config.reward is not None, "checked with the options"
    asked, answers = conversation.draw(config.prompt, config.best_of, arm=arm)
    judge = load_answerer(config.reward, home=home, device=config.device, dtype=config.dtype, note=note)
    renderer = AnswerRenderer(judge.renderer)
    written = [one for one in answers if one.text]
    if not written:
        raise ModelError(
            f"all {len(answers)} answers are empty", where=conversation.name, remedy="give a lower --temperature"
        )
    sequences = [
        renderer.render(Example((*asked, Message("assistant", one.text, supervised=True)))).sequences[-1]
        for one in written
    ]
    scores = answer_scores(judge, sequences)
    scored = [ScoredAnswer(one, score) for one, score in zip(written, scores, strict=True)]
    scored.sort(key=lambda one: -(one.score or 0.0))
    return [*scored, *(ScoredAnswer(one, None) for one in answers if not one.text)]
