"""The probe of a version: eight fixed conversations, how they render, and what the model says of them.

It travels with the adapter, in two files. Whoever loads the version renders and computes the same, and learns of a
changed template, tokenizer, base, adapter, scale or kernel before anybody reads an answer. A conversation that the
template cannot render is stored with the reason, and is to be refused again.

Shape legend: P positions of the probe, K most likely tokens of each, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import pack
from hone.data.render import Renderer
from hone.errors import StorageError, TemplateError, TrainingError
from hone.model.added_tokens import added_tokens_hidden
from hone.model.forward import Forward
from hone.model.lora import adapter_disabled
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.proof.invariant import Invariant
from hone.types import Example, TokenSequence

__all__ = [
    "PROBE_NAMES",
    "TOLERANCES",
    "VersionProbe",
    "check_version_probe",
    "make_version_probe",
    "read_version_probe",
    "text_difference",
]

PROBE_NAMES = ("probe.json", "probe.safetensors")
"""The probe's two files in the adapter's folder."""

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Difference of log-probabilities, root of the mean square, that another machine or kernel may make, in nats."""

_SCHEMA = 1
_POSITIONS = 16
_LIKELIEST = 20
_NAME = "loaded, it reproduces the probe stored with it"


@dataclass(frozen=True, slots=True)
class _Conversation:
    """One conversation as its template renders it.

    Args:
        name: which of the eight.
        refused: why the template cannot render it; empty where it can.
        text_sha256: of the text that generation would begin from.
        ids: token ids of the row.
        supervised: 1 for a token that carries loss, else 0.
    """

    name: str
    refused: str = ""
    text_sha256: str = ""
    ids: tuple[int, ...] = ()
    supervised: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionProbe:
    """The probe as it is stored.

    Args:
        conversations: the eight, in their order.
        stop_ids: ids that end an answer.
        dtype: of the computation.
        places: (conversation, position of the predicted token) for each of P.
        tensors: ``tuned_ids`` and ``base_ids`` [P, K], the most likely tokens with and without what was trained, with
            their log-probabilities ``tuned_logprobs`` and ``base_logprobs``; ``base_at_tuned``, the base's of the
            tokens in ``tuned_ids``.
    """

    conversations: tuple[_Conversation, ...]
    stop_ids: tuple[int, ...]
    dtype: str
    places: tuple[tuple[int, int], ...]
    tensors: Mapping[str, Tensor]

    def files(self) -> dict[str, bytes]:
        """Content of the two files by name."""
        facts = {
            "schema": _SCHEMA,
            "dtype": self.dtype,
            "stop_ids": list(self.stop_ids),
            "places": [list(place) for place in self.places],
            "conversations": [asdict(conversation) for conversation in self.conversations],
        }
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        return {PROBE_NAMES[0]: text.encode("utf-8"), PROBE_NAMES[1]: save(dict(self.tensors))}

    @property
    def refused(self) -> list[str]:
        """Names of the conversations that the template cannot render."""
        return [conversation.name for conversation in self.conversations if conversation.refused]


def make_version_probe(model: PreTrainedModel, renderer: Renderer, *, logits: Forward) -> VersionProbe:
    """Render the conversations, and note what the model in memory says, with what was trained and without.

    Args:
        model: as it is about to be saved.
        renderer: of the version, without a limit of its own on the length.
        logits: gives the logits [P, V] of a batch's supervised tokens, on the path that the version answers on.

    Raises:
        TrainingError: a log-probability is not finite.
    """
    conversations = tuple(_rendered(name, example, renderer) for name, example in PROBE_CONVERSATIONS)
    places = tuple(_places(conversations))
    dtype = str(model.dtype).removeprefix("torch.")
    tensors: dict[str, Tensor] = {}
    if places:
        tuned_PV, base_PV = _logprobs(model, conversations, places, logits)
        likeliest = min(_LIKELIEST, tuned_PV.shape[1])
        tuned_PK, base_PK = tuned_PV.topk(likeliest).indices, base_PV.topk(likeliest).indices
        tensors = {
            "tuned_ids": tuned_PK,
            "base_ids": base_PK,
            "tuned_logprobs": tuned_PV.gather(1, tuned_PK),
            "base_logprobs": base_PV.gather(1, base_PK),
            "base_at_tuned": base_PV.gather(1, tuned_PK),
        }
    return VersionProbe(conversations, renderer.stop_ids, dtype, places, tensors)


def read_version_probe(folder: Path) -> VersionProbe | None:
    """The probe beside an adapter; None where there is none, as of a version made before probes were stored.

    Raises:
        StorageError: a file is damaged, or one of the two is missing.
    """
    paths = [folder / name for name in PROBE_NAMES]
    if not any(path.exists() for path in paths):
        return None
    try:
        facts = json.loads(paths[0].read_text(encoding="utf-8"))
        tensors = load_file(paths[1])
        conversations = tuple(
            _Conversation(**{**one, "ids": tuple(one["ids"]), "supervised": tuple(one["supervised"])})
            for one in facts["conversations"]
        )
        places = tuple((int(row), int(at)) for row, at in facts["places"])
        return VersionProbe(conversations, tuple(facts["stop_ids"]), facts["dtype"], places, tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StorageError(
            f"the probe cannot be read: {error}",
            where=str(folder),
            why="without it nobody can tell whether the version answers as it did",
            remedy="restore the adapter's folder from a copy, or train again",
        ) from error


def text_difference(probe: VersionProbe, renderer: Renderer) -> str:
    """The first token that the version's own renderer now gives otherwise, in words; empty where all are equal.

    Args:
        probe: as it was stored.
        renderer: as it is now.
    """
    if tuple(renderer.stop_ids) != probe.stop_ids:
        return f"the tokens that end an answer are {list(renderer.stop_ids)}, and were {list(probe.stop_ids)}"
    examples = dict(PROBE_CONVERSATIONS)
    for then in probe.conversations:
        now = _rendered(then.name, examples[then.name], renderer)
        where = f"conversation {then.name!r}"
        if bool(now.refused) != bool(then.refused):
            return f"{where}: {'cannot be rendered any more: ' + now.refused if now.refused else 'can be rendered now'}"
        at = next((at for at, (a, b) in enumerate(zip(now.ids, then.ids, strict=False)) if a != b), None)
        if at is not None:
            return f"{where}, token {at + 1}: {_token(renderer, now.ids[at])}, and was {_token(renderer, then.ids[at])}"
        if len(now.ids) != len(then.ids):
            return f"{where}: {len(now.ids)} tokens, and were {len(then.ids)}; those they share are equal"
        if now.supervised != then.supervised:
            return f"{where}: other tokens carry loss than did"
        if now.text_sha256 != then.text_sha256:
            return f"{where}: the text of the prompt is another, in the same tokens"
    return ""


def check_version_probe(
    probe: VersionProbe, model: PreTrainedModel, renderer: Renderer, *, logits: Forward
) -> Invariant:
    """Whether a loaded version is what was saved: the same tokens, the same log-probabilities, the same way from base.

    Args:
        probe: as it was stored.
        model: the base with what was trained, as loaded.
        renderer: made for it anew.
        logits: as for :func:`make_version_probe`.

    Returns:
        Invariant 10; where it does not hold, ``found`` names the first token that differs.

    Raises:
        TrainingError: a log-probability is not finite.
    """
    checked = f"{len(probe.conversations) - len(probe.refused)} conversations, {len(probe.places)} positions"
    remedy = "put back the base and the versions of the libraries that result.json names, or train again"
    found = text_difference(probe, renderer)
    if found:
        bound = "all tokens equal"
        return Invariant(10, _NAME, False, 1.0, bound, checked, remedy, found)
    dtypes = (probe.dtype, str(model.dtype).removeprefix("torch."))
    tolerance = max(TOLERANCES.get(dtype, max(TOLERANCES.values())) for dtype in dtypes)
    if not probe.places:
        reason = "no conversation of the probe can be rendered"
        return Invariant(10, _NAME, True, 0.0, f"<= {tolerance:g} nats", reason, remedy)
    then = probe.tensors
    tuned_PV, base_PV = _logprobs(model, probe.conversations, probe.places, logits)
    tuned_PK, base_at_tuned_PK = tuned_PV.gather(1, then["tuned_ids"]), base_PV.gather(1, then["tuned_ids"])
    base_gap_PK = base_PV.gather(1, then["base_ids"]) - then["base_logprobs"]
    tuned_gap_PK = tuned_PK - then["tuned_logprobs"]
    moved_then = _way(then["tuned_logprobs"], then["base_at_tuned"])
    moved_now = _way(tuned_PK, base_at_tuned_PK)
    gap = max(_rms(tuned_gap_PK), _rms(base_gap_PK))
    as_it_did = _moves_as_it_did(moved_then, moved_now, tolerance)
    bound = (
        f"log-probabilities within {tolerance:g} nats (rms, {dtypes[0]} then, {dtypes[1]} now), and as far from the "
        f"base: {_rms(moved_then):.3g} then, {_rms(moved_now):.3g} now"
    )
    holds = gap <= tolerance and as_it_did
    if not holds:
        found = _first_difference(probe, renderer, tuned_gap_PK, base_gap_PK, tolerance) if gap > tolerance else ""
        found = found or "the adapter does not change the base as it did"
    return Invariant(10, _NAME, holds, gap, bound, checked, remedy, found)


def _way(tuned_PK: Tensor, base_PK: Tensor) -> Tensor:
    """From base to tuned; 0 for a token that training added, which the base does not have."""
    return (tuned_PK - base_PK).masked_fill(~torch.isfinite(base_PK), 0.0)


def _moves_as_it_did(then_PK: Tensor, now_PK: Tensor, tolerance: float) -> bool:
    """Whether the way from the base is the stored one, as far as it can be told from the noise of another machine."""
    if not bool(then_PK.any()):
        return not bool(now_PK.any())
    if not bool(now_PK.any()):
        return False  # an adapter that does nothing gives its base's numbers to the last bit
    way = _rms(then_PK)
    return way <= tolerance or _rms(now_PK - then_PK) <= way / 2


def _first_difference(
    probe: VersionProbe, renderer: Renderer, tuned_PK: Tensor, base_PK: Tensor, tolerance: float
) -> str:
    for (conversation, at), tuned, base in zip(probe.places, tuned_PK, base_PK, strict=True):
        for who, gaps, ids in (("base", base, "base_ids"), ("tuned", tuned, "tuned_ids")):
            worst = int(gaps.abs().argmax())
            if not float(gaps.abs()[worst]) <= tolerance:
                place = probe.places.index((conversation, at))
                token = _token(renderer, int(probe.tensors[ids][place, worst]))
                was = float(probe.tensors[f"{who}_logprobs"][place, worst])
                name = probe.conversations[conversation].name
                return (
                    f"conversation {name!r}, token {at + 1}: the {who} model gives {token} a log-probability of "
                    f"{was + float(gaps[worst]):.3f}, and gave {was:.3f}"
                )
    return ""


def _rendered(name: str, example: Example, renderer: Renderer) -> _Conversation:
    last = len(example.messages) - 1
    try:
        sequence = renderer.render(example).sequences[-1]
        text = renderer.prompt_text(example.messages[:last], example.tools)
    except TemplateError as fault:
        return _Conversation(name, refused=fault.what)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return _Conversation(name, "", digest, sequence.ids, tuple(int(flag) for flag in sequence.supervised))


def _places(conversations: Sequence[_Conversation]) -> Iterator[tuple[int, int]]:
    """Sixteen supervised tokens, alike many of each conversation: its first and its last one, and some between."""
    usable = [index for index, conversation in enumerate(conversations) if not conversation.refused]
    for order, index in enumerate(usable):
        supervised = [at for at, flag in enumerate(conversations[index].supervised) if flag and at]
        count = _POSITIONS // len(usable) + (order < _POSITIONS % len(usable))
        count = min(count, len(supervised))
        stride = (len(supervised) - 1) / max(1, count - 1)
        yield from ((index, supervised[round(step * stride)]) for step in range(count))


@torch.inference_mode()
def _logprobs(
    model: PreTrainedModel,
    conversations: Sequence[_Conversation],
    places: Sequence[tuple[int, int]],
    logits: Forward,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [P, V] with what was trained and without, float32 on the processor."""
    sequences = []
    for index in sorted({row for row, _ in places}):
        wanted = {at for row, at in places if row == index}
        ids = conversations[index].ids
        sequences.append(TokenSequence(ids, tuple(at in wanted for at in range(len(ids))), index))
    batch = pack(sequences)
    tuned_PV = torch.log_softmax(logits(model, batch).float(), dim=-1).cpu()
    with adapter_disabled(model), added_tokens_hidden(model):
        base_PV = torch.log_softmax(logits(model, batch).float(), dim=-1).cpu()
    if not bool(torch.isfinite(tuned_PV.amax(dim=-1)).all() and torch.isfinite(base_PV.amax(dim=-1)).all()):
        raise TrainingError(
            "the model's log-probabilities of the probe's conversations are not finite",
            remedy="train again with a lower --learning-rate or --dtype float32",
        )
    return tuned_PV, base_PV


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _token(renderer: Renderer, token: int) -> str:
    return f"{renderer.token_text(token)!r} ({token})"
