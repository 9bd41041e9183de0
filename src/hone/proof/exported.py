"""Invariant 11 of an exported version: in its own runtime it gives the answers that hone gives.

hone answers a few prompts greedily, in float32. The runtime then reads each prompt with that answer and says, at every
token, which it would have written: the share of equal tokens is the figure, so that one near tie does not make the rest
of an answer count as different. Where the runtime tokenises and renders by itself, its tokens of the prompt's text, its
rendering of the messages and its stop tokens have to be hone's too.

Shape legend: S tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hone.errors import TrainingError
from hone.model.generate import SamplingSettings, generate
from hone.proof.invariant import Invariant
from hone.types import JsonDict

__all__ = [
    "EXPORT_BOUNDS",
    "ExportCheck",
    "ReferenceAnswer",
    "RuntimeAnswer",
    "check_exported",
    "read_with_model",
    "reference_answers",
]

EXPORT_BOUNDS: Mapping[str, tuple[float, float]] = {
    "float32": (0.999, 1e-3),
    "bfloat16": (0.97, 0.25),
    "float16": (0.99, 0.05),
    "f16": (0.99, 0.05),
    "q8_0": (0.97, 0.25),
    "q4_1": (0.8, 1.0),
    "q4_0": (0.8, 1.0),
}
"""By how the weights are stored: the least share of equal tokens, and the largest difference of log-probabilities of
hone's tokens (root of the mean square, nats)."""

_NAME = "the exported files give the version's answers in their own runtime"


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """A prompt and how hone answers it.

    Args:
        name: of the prompt, as ``question`` or ``held-out row 3``.
        text: of the prompt, special tokens written out.
        prompt_ids: its token ids.
        answer_ids: of the answer, with a stop token where the model ended it.
        logprobs: natural log-probability of each token of the answer.
    """

    name: str
    text: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RuntimeAnswer:
    """What a runtime made of the same prompt and answer.

    Args:
        picks: the token that it would have written at each place of the answer.
        logprobs: its log-probability of each token of the answer.
        written: what it wrote by itself; None where it was not asked.
        text_ids: its tokens of the prompt's text; None where hone's were given to it.
        rendered: its rendering of the messages; None where hone's was given to it.
    """

    picks: tuple[int, ...]
    logprobs: tuple[float, ...]
    written: tuple[int, ...] | None = None
    text_ids: tuple[int, ...] | None = None
    rendered: str | None = None


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """How an export compares in one runtime.

    Args:
        runtime: and its release, as ``peft 0.21``.
        invariant: number 11; its figure is the share of equal tokens.
        tokens: compared.
        equal_tokens: of them equal.
        answers: compared.
        equal_answers: of them equal to the last token.
        difference_nats: of the log-probabilities of hone's tokens, root of the mean square.
    """

    runtime: str
    invariant: Invariant
    tokens: int
    equal_tokens: int
    answers: int
    equal_answers: int
    difference_nats: float

    def to_json(self) -> JsonDict:
        """As it stands in ``export.json``."""
        return {
            "runtime": self.runtime,
            "tokens": self.tokens,
            "equal_tokens": self.equal_tokens,
            "answers": self.answers,
            "equal_answers": self.equal_answers,
            "difference_nats": round(self.difference_nats, 6),
            "invariant": self.invariant.to_json(),
        }


def reference_answers(
    model: PreTrainedModel,
    prompts: Sequence[tuple[str, str, tuple[int, ...]]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> list[ReferenceAnswer]:
    """Answer every prompt greedily, as ``hone generate`` does.

    Args:
        model: with what was trained, float32.
        prompts: (name, text, token ids) of each.
        stop_ids: tokens that end an answer.
        max_new_tokens: of an answer.

    Raises:
        TrainingError: a log-probability is not finite.
    """
    settings = SamplingSettings(max_new_tokens)
    written = generate(model, [ids for _, _, ids in prompts], stop_ids=stop_ids, settings=settings)
    answers = []
    for (name, text, ids), answer in zip(prompts, written, strict=True):
        whole = (*answer.ids, stop_ids[0]) if answer.stopped else answer.ids
        _, logprobs = _read(model, ids, whole)
        if not all(math.isfinite(value) for value in logprobs):
            raise TrainingError(f"the version's log-probabilities are not finite (prompt {name!r})")
        answers.append(ReferenceAnswer(name, text, ids, whole, logprobs))
    return answers


def read_with_model(model: PreTrainedModel, references: Sequence[ReferenceAnswer]) -> list[RuntimeAnswer]:
    """What a model that another library has loaded makes of the prompts and answers.

    Args:
        model: in evaluation mode.
        references: as hone answered.
    """
    return [RuntimeAnswer(*_read(model, one.prompt_ids, one.answer_ids)) for one in references]


@torch.inference_mode()
def _read(
    model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(most likely token, log-probability of the answer's token) at each place of an answer."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logits_SV = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    wanted_S = torch.tensor(list(answer), device=logits_SV.device)
    logprobs_S = torch.log_softmax(logits_SV, dim=-1).gather(1, wanted_S.unsqueeze(1)).squeeze(1)
    return tuple(logits_SV.argmax(dim=-1).tolist()), tuple(logprobs_S.tolist())


def check_exported(
    references: Sequence[ReferenceAnswer],
    found: Sequence[RuntimeAnswer],
    *,
    runtime: str,
    weights: str,
    stop_ids: Sequence[int],
    known_stops: frozenset[int] | None,
    token_text: Callable[[int], str],
) -> ExportCheck:
    """Hold a runtime's answers against hone's.

    Args:
        references: as hone answered.
        found: what the runtime made of each, in the same order.
        runtime: and its release.
        weights: how they are stored, a key of :data:`EXPORT_BOUNDS`.
        stop_ids: tokens that end an answer; any of them may stand for another.
        known_stops: those of them at which the runtime stops; None where it was not asked.
        token_text: text of one token, for messages.
    """
    stops = frozenset(stop_ids)
    gaps: list[float] = []
    equal_tokens = equal_answers = 0
    first = ""
    for reference, one in zip(references, found, strict=True):
        same = [a == b or {a, b} <= stops for a, b in zip(reference.answer_ids, one.picks, strict=True)]
        gaps += [now - then for now, then in zip(one.logprobs, reference.logprobs, strict=True)]
        equal_tokens += sum(same)
        equal_answers += all(same) if one.written is None else _equal(reference.answer_ids, one.written, stops)
        if not first and not all(same):
            at = same.index(False)
            was, now = (token_text(ids[at]) for ids in (reference.answer_ids, one.picks))
            first = f"prompt {reference.name!r}, token {at + 1} of the answer: {now!r}, and hone writes {was!r}"
    total = sum(len(reference.answer_ids) for reference in references)
    share, difference = equal_tokens / total, math.sqrt(sum(gap * gap for gap in gaps) / total)
    least, most = EXPORT_BOUNDS[weights]
    broken = _text_difference(references, found) or _stop_difference(stops, known_stops, token_text)
    holds = not broken and share >= least and difference <= most
    invariant = Invariant(
        11, _NAME, holds, round(share, 6),
        f"share of equal tokens >= {least:g}, and log-probabilities within {most:g} nats (rms): {difference:.2g}",
        f"{total} tokens of {len(references)} answers, weights {weights}, {runtime}",
        "export with more bits a weight, or to merged", "" if holds else broken or first or "other log-probabilities",
    )  # fmt: skip
    return ExportCheck(runtime, invariant, total, equal_tokens, len(references), equal_answers, difference)


def _equal(answer: Sequence[int], written: Sequence[int], stops: frozenset[int]) -> bool:
    return len(answer) == len(written) and all(a == b or {a, b} <= stops for a, b in zip(answer, written, strict=True))


def _text_difference(references: Sequence[ReferenceAnswer], found: Sequence[RuntimeAnswer]) -> str:
    """Where the runtime tokenises or renders otherwise; empty where it does not."""
    for reference, one in zip(references, found, strict=True):
        if one.rendered is not None and one.rendered != reference.text:
            return f"prompt {reference.name!r}: the chat template renders {_apart(one.rendered, reference.text)}"
        if one.text_ids is not None and one.text_ids != reference.prompt_ids:
            pairs = zip(one.text_ids, reference.prompt_ids, strict=False)
            at = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
            where = f"token {at + 1} is {one.text_ids[at]}, and {reference.prompt_ids[at]} in hone" if at is not None \
                else f"{len(one.text_ids)} tokens, and {len(reference.prompt_ids)} in hone"  # fmt: skip
            return f"prompt {reference.name!r} is read as other tokens: {where}"
    return ""


def _apart(now: str, was: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(now, was, strict=False)) if a != b), min(len(now), len(was)))
    return f"{now[at : at + 40]!r} where hone has {was[at : at + 40]!r}"


def _stop_difference(stops: frozenset[int], known: frozenset[int] | None, token_text: Callable[[int], str]) -> str:
    unknown = sorted(stops - known) if known is not None else []
    return f"it does not stop at {', '.join(repr(token_text(token)) for token in unknown)}" if unknown else ""
