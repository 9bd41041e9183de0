"""Reward models: training one as a method of the one loop, and asking one what answers are worth.

Shape legend: B answers, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hone.config.reward import RewardConfig
from hone.data.answers import AnswerBatch, AnswerRenderer, pack_answers
from hone.data.ledger import Ledger
from hone.data.loader import load_examples
from hone.data.pack import pack, plan_micro_batches
from hone.engine.events import Event, Recorder
from hone.engine.step import mean_loss
from hone.errors import ConfigError, DataError
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.model.score_head import score_head_of, scores_pass
from hone.objective.reward import reward_loss
from hone.proof.invariant import Invariant
from hone.recipe.held_out import require_rows
from hone.recipe.inference import Answerer, load_answerer, training_path
from hone.recipe.method import Method
from hone.recipe.preference import answer_sets
from hone.recipe.rows import PreparedRows, render_rows
from hone.types import JsonDict, Preference, TokenSequence

__all__ = ["ScoredAnswers", "answer_scores", "reward_method", "score_answers"]

_CHECKED_SETS = 8
_LOSS_GAP = 1e-5
_MAX_TOKENS = 2048


def reward_method(base: LoadedModel, rows: PreparedRows, *, forward: Forward, max_tokens: int) -> Method:
    """The method on these rows.

    Args:
        base: with a fresh adapter and a head of zeros, inside the block of ``forward``.
        rows: as prepared.
        forward: the path that training takes.
        max_tokens: tokens computed at once.

    Raises:
        DataError: no two answers are left to compare.
    """
    train, validation = (answer_sets(rows, part, "reward") for part in (rows.train, rows.validation))
    if not train:
        raise DataError("no two answers are left to compare", where=str(rows.manifest["source"]["name"]))
    forward = scores_pass(forward)
    sample = train[:: max(1, len(train) // _CHECKED_SETS)][:_CHECKED_SETS]
    margins = [one.margin for one in sample for _ in one.pairs]
    expected = sum(margin + math.log1p(math.exp(-margin)) for margin in margins) / len(margins)  # margins are from 0 up
    gap = _LOSS_GAP * max(1.0, expected)
    base.model.eval()
    batches = pack_answers(sample, max_tokens=max_tokens)
    loss = mean_loss(base.model, batches, forward=forward, objective=_objective)
    words = "is ln 2" if not any(margins) else "follows from the margins alone"
    first = Invariant(
        6, f"before the first step the loss of reward {words}", abs(loss - expected) <= gap,
        abs(loss - expected), f"|{loss:.6f} - {expected:.6f}| <= {gap:g}", f"{len(sample)} rows",
        "report the model: its head does not begin at zero",
    )  # fmt: skip
    return Method(train, validation, pack_answers, forward, _objective, proof=(first,))


def _objective(scores_B: Tensor, batch: AnswerBatch) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    better_P, worse_P = (torch.tensor(one, device=scores_B.device) for one in (batch.better_P, batch.worse_P))
    margins_P = torch.tensor(batch.margins_P, dtype=torch.float32, device=scores_B.device)
    return reward_loss(scores_B[better_P], scores_B[worse_P], margins_P)


@torch.inference_mode()
def answer_scores(
    answerer: Answerer, sequences: Sequence[TokenSequence], *, on_done: Callable[[int], None] = lambda count: None
) -> list[float]:
    """What a reward model finds each answer worth.

    Args:
        answerer: a reward model.
        sequences: prompt and answer.
        on_done: called with the number of answers scored.

    Raises:
        ConfigError: it is no reward model.
    """
    model = answerer.base.model
    if score_head_of(model) is None:
        raise ConfigError(
            f"{answerer.name} is no reward model",
            where="VERSION",
            remedy="train one on preferences: hone run DATA --method reward",
        )
    forward, path = training_path(model, reference=answerer.reference_path)
    score = scores_pass(forward)
    scores = [0.0] * len(sequences)
    done = 0
    with path:
        for indices in plan_micro_batches(sequences, max_tokens=_MAX_TOKENS):
            found = score(model, pack([sequences[index] for index in indices])).tolist()
            for index, one in zip(indices, found, strict=True):
                scores[index] = one
            done += len(indices)
            on_done(done)
    return scores


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The answers of a file with their scores.

    Args:
        name: of the reward model.
        rows: {"row", "line", "answer" (its place in the row, from 0), "score", "text"} of each answer.
        ledger: what became of every row.
    """

    name: str
    rows: list[JsonDict]
    ledger: Ledger


def score_answers(config: RewardConfig, *, home: Path, recorder: Recorder) -> ScoredAnswers:
    """Score every answer of a file: the behaviour of ``hone reward score``.

    Args:
        config: the version and the rows.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        HoneError: it is no reward model, or no row can be used.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.version}"}))
    answerer = load_answerer(config.version, home=home, device=config.device, dtype=config.dtype, note=note)
    loaded = load_examples(config.data, mapping=config.mapping, limit=config.limit, preferences=True)
    examples, rendered = render_rows(loaded.examples, AnswerRenderer(answerer.renderer), loaded.ledger)
    require_rows(examples, loaded.ledger, loaded.source)
    if dropped := loaded.ledger.dropped_sentence("are not scored"):
        note(dropped)
    rows: list[JsonDict] = []
    sequences: list[TokenSequence] = []
    for example in examples:
        answers = example.answers if isinstance(example, Preference) else example.messages[-1:]
        whole = rendered[example.row] if isinstance(example, Preference) else rendered[example.row][-1:]
        sequences += whole
        rows += [
            {"row": example.row, "line": example.line, "answer": index, "text": answer.content}
            for index, answer in enumerate(answers)
        ]
    total = len(sequences)
    scores = answer_scores(
        answerer, sequences,
        on_done=lambda done: recorder.record(Event("progress", {"task": "answers", "done": done, "total": total})),
    )  # fmt: skip
    scored = [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]
    return ScoredAnswers(answerer.name, scored, loaded.ledger)
