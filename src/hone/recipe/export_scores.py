"""The proof of an exported reward model: transformers' sequence classification and PEFT give given answers its scores.

A reward model writes nothing, so there are no answers of its own to compare. What it scores are the probe's answers and
those of the first held-out rows, each conversation up to the token that ends its last turn.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification

from hone.data.answers import AnswerRenderer
from hone.errors import ModelError, TemplateError
from hone.model.quiet import quiet_transformers
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.proof.invariant import Invariant
from hone.recipe.export_check import WrittenExport, with_peft
from hone.recipe.inference import Answerer, is_reward_model
from hone.recipe.method import load_for
from hone.recipe.reward import answer_scores
from hone.registry.versions import Version
from hone.types import Example, JsonDict, TokenSequence

__all__ = ["GivenAnswer", "ScoreCheck", "check_scores", "refuse_unscored", "scored_answers"]

_HELD_OUT_ROWS = 8
_NAME = "the exported files give the version's scores in their own runtime"
# of the largest score: both compute in float32, and differ by rounding alone
_MOST_APART, _LEAST_ALLOWED = 1e-3, 1e-6


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer that hone has scored.

    Args:
        name: as ``question``, or ``held-out row 3, answer 2``.
        ids: the conversation's tokens up to the end of the answer's turn.
        score: hone's.
    """

    name: str
    ids: tuple[int, ...]
    score: float

    def to_json(self) -> JsonDict:
        """As it stands in ``export.json``, without its tokens."""
        return {"prompt": self.name, "tokens": len(self.ids), "score": round(self.score, 6)}


@dataclass(frozen=True, slots=True)
class ScoreCheck:
    """How an exported reward model compares in one runtime.

    Args:
        runtime: and its release, as ``peft 0.21``.
        invariant: number 11; its figure is the largest difference.
        answers: compared.
        difference: of the scores, the largest.
    """

    runtime: str
    invariant: Invariant
    answers: int
    difference: float

    def to_json(self) -> JsonDict:
        """As it stands in ``export.json``."""
        return {
            "runtime": self.runtime,
            "answers": self.answers,
            "score_difference": round(self.difference, 9),
            "invariant": self.invariant.to_json(),
        }


def refuse_unscored(version: Version, target: str) -> None:
    """Refuse a reward model in a format that has no place for the head that gives its scores.

    Args:
        version: any.
        target: the format.

    Raises:
        ModelError: it is not ``peft``, and the version is a reward model.
    """
    if is_reward_model(version.run_folder) and target != "peft":
        raise ModelError(
            f"{version.reference} is a reward model, and {target} has no place for the head that gives its scores",
            why="what is left without it is a chat model that nobody trained to answer",
            remedy="export it with --to peft, which transformers' sequence classification and PEFT read; "
            f"or score with `hone reward score {version.reference} FILE`",
        )


def scored_answers(answerer: Answerer) -> list[GivenAnswer]:
    """The probe's answers and those of the first held-out rows, with hone's scores.

    Args:
        answerer: a reward model, in float32.

    Raises:
        TemplateError: its template renders none of them.
    """
    renderer = AnswerRenderer(answerer.renderer)
    named: list[tuple[str, TokenSequence]] = []
    asked = [(name, example) for name, example in PROBE_CONVERSATIONS if not example.tools]
    for name, example in [*asked, *_held_out(answerer)]:
        try:
            sequences = renderer.render(example).sequences
        except TemplateError:
            continue  # the template takes no such conversation
        names = [name] if len(sequences) == 1 else [f"{name}, answer {at + 1}" for at in range(len(sequences))]
        named += zip(names, sequences, strict=True)
    if not named:
        raise TemplateError("the chat template renders none of the answers that are to be scored")
    scores = answer_scores(answerer, [sequence for _, sequence in named])
    return [GivenAnswer(name, sequence.ids, score) for (name, sequence), score in zip(named, scores, strict=True)]


def _held_out(answerer: Answerer) -> list[tuple[str, Example]]:
    path = answerer.run_folder / "held_out.jsonl" if answerer.run_folder is not None else None
    if path is None or not path.is_file():
        return []
    examples = load_for(answerer.notes.get("method"), str(path)).examples[:_HELD_OUT_ROWS]
    return [(f"held-out row {one.row}", one) for one in examples]


def check_scores(
    folder: Path, written: WrittenExport, given: Sequence[GivenAnswer], *, base_folder: Path, device: str
) -> tuple[ScoreCheck | None, list[tuple[str, str]]]:
    """Score the answers as another program does, and hold them against hone's scores.

    Args:
        folder: of the adapter's files.
        written: what they are.
        given: answers with hone's scores.
        base_folder: config and weights of the base.
        device: where to compute.

    Returns:
        The check, None where there was none; and (runtime, reason) of each that was passed over.

    Raises:
        ModelError: PEFT cannot read the adapter.
    """
    if written.unread or importlib.util.find_spec("peft") is None:
        return None, [("peft", written.unread or "not installed: pip install peft")]
    try:
        model = with_peft(folder, _classification_base(base_folder).to(device))
    except (ValueError, KeyError, OSError) as error:  # transformers has no class of its own for these
        reason = (str(error).splitlines() or ["?"])[0]
        return None, [
            (f"transformers {transformers.__version__}", f"no sequence classification on this base: {reason}")
        ]
    found = []
    with torch.inference_mode():
        for one in given:
            found.append(float(model(torch.tensor([one.ids], device=device)).logits[0, 0]))
    return _compared(given, found, f"peft {importlib.metadata.version('peft')}"), []


def _classification_base(folder: Path) -> Any:
    """The base as transformers' sequence classification loads it, without a padding token and without foreign code."""
    with quiet_transformers():
        config: Any = AutoConfig.from_pretrained(
            folder, num_labels=1, pad_token_id=None, trust_remote_code=False, local_files_only=True
        )
        # as when hone loads a base: a config can name code on the hub, which transformers would fetch and run
        config._attn_implementation = "eager"
        config._experts_implementation = None
        return AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            local_files_only=True,
        )  # fmt: skip


def _compared(given: Sequence[GivenAnswer], found: Sequence[float], runtime: str) -> ScoreCheck:
    gaps = [abs(now - one.score) for one, now in zip(given, found, strict=True)]
    allowed = max(_LEAST_ALLOWED, _MOST_APART * max(abs(one.score) for one in given))
    at = next((at for at, gap in enumerate(gaps) if not gap <= allowed), None)  # a gap may be no number
    worst = max(gaps) if at is None else gaps[at]
    first = "" if at is None else f"{given[at].name!r} has the score {found[at]:.4f}, and {given[at].score:.4f} in hone"
    invariant = Invariant(
        11, _NAME, at is None, worst, f"largest difference of the scores <= {allowed:.2g}",
        f"{len(given)} given answers, {runtime}", "report the model; score with `hone reward score` meanwhile", first,
    )  # fmt: skip
    return ScoreCheck(runtime, invariant, len(given), worst)
