"""Answers that were given before: by model, settings and the exact tokens of the prompt.

One file for each model and way of answering, in the home folder. It saves time and is no source: what cannot be read is
made again. The oldest files go when there are many. It holds answers to held-out rows, as run folders do.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.errors import StorageError
from hone.files import write_atomically
from hone.model.generate import Generation
from hone.types import JsonDict, TokenSequence

__all__ = ["AnswerCache", "KeptAnswer", "cache_folder"]

_MOST_FILES = 64
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer, and the seconds that it took: its share of the time of all that were answered with it."""

    generation: Generation
    seconds: float


def cache_folder(home: Path) -> Path:
    """Where answers are kept."""
    return home / "cache" / "answers"


class AnswerCache:
    """What one model has answered under one set of settings.

    Args:
        folder: where answers are kept; None keeps nothing and knows nothing.
        made_with: all that an answer depends on beside its prompt, as plain JSON values.
    """

    def __init__(self, folder: Path | None, made_with: Mapping[str, Any]) -> None:
        key = json.dumps({"format": _FORMAT, **made_with}, sort_keys=True, ensure_ascii=False)
        self._path = None if folder is None else folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        self._content: JsonDict = {"answers": {}, "bits": {}}
        if self._path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                read = json.loads(self._path.read_text(encoding="utf-8"))
                self._content = {"answers": dict(read["answers"]), "bits": dict(read["bits"])}

    def answer(self, prompt: Sequence[int]) -> KeptAnswer | None:
        """The answer to a prompt's tokens, or None."""
        found = self._content["answers"].get(_digest(prompt))
        if found is None:
            return None
        ids, stopped, seconds = found
        return KeptAnswer(Generation(tuple(ids), bool(stopped)), float(seconds))

    def bits(self, sequence: TokenSequence) -> float | None:
        """Bits of a rendered row's answer, or None."""
        found = self._content["bits"].get(_digest(sequence.ids, sequence.supervised))
        return None if found is None else float(found)

    def keep_answers(self, prompts: Sequence[Sequence[int]], answers: Sequence[KeptAnswer]) -> None:
        """Remember answers; :meth:`save` writes them."""
        for prompt, answer in zip(prompts, answers, strict=True):
            given = answer.generation
            self._content["answers"][_digest(prompt)] = [list(given.ids), given.stopped, round(answer.seconds, 6)]

    def keep_bits(self, sequences: Sequence[TokenSequence], bits: Sequence[float]) -> None:
        """Remember bits; :meth:`save` writes them."""
        for sequence, amount in zip(sequences, bits, strict=True):
            self._content["bits"][_digest(sequence.ids, sequence.supervised)] = amount

    def save(self) -> None:
        """Write what is remembered; without space or permission nothing is kept, and that is all that is lost."""
        if self._path is None:
            return
        with suppress(StorageError, ValueError):
            write_atomically(self._path, json.dumps(self._content, ensure_ascii=False, allow_nan=False))
        with suppress(OSError):
            files = sorted(self._path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in files[_MOST_FILES:]:
                path.unlink(missing_ok=True)


def _digest(ids: Sequence[int], flags: Sequence[bool] = ()) -> str:
    return hashlib.sha256(array("q", ids).tobytes() + b"|" + bytes(flags)).hexdigest()[:40]
