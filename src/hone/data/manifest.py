"""The data manifest: which rows a run trained on, chose by and was judged on, as hashes of their content.

Two runs with equal manifests saw the same data, whatever the file was called; a row of one can be looked up in another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hone.data.formats import example_to_openai
from hone.data.loader import LoadedData
from hone.data.source import is_hub_id
from hone.types import Example, JsonDict

__all__ = ["build_manifest", "example_hash", "prompt_hash"]

_MANIFEST_FORMAT = 1


def example_hash(example: Example) -> str:
    """The SHA-256, in hexadecimal, of an example's content: turns, loss weights and tools.

    It is taken over the OpenAI form as canonical JSON (sorted keys, no white space, UTF-8), so neither the format
    that the row came in nor its place in the file matters.
    """
    return _hash_of(example_to_openai(example))


def prompt_hash(example: Example) -> str:
    """The same over what is asked, without the last turn: equal for two rows that differ in their answers alone."""
    row = example_to_openai(example)
    return _hash_of({**row, "messages": row["messages"][:-1]})


def _hash_of(row: JsonDict) -> str:
    canonical = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def build_manifest(
    data: LoadedData,
    *,
    train: Sequence[Example],
    held_out: Sequence[Example],
    validation: Sequence[Example] = (),
    seed: int = 0,
    held_out_data: LoadedData | None = None,
) -> JsonDict:
    """Describe the data of a run.

    Args:
        data: the source of the training rows.
        train: rows trained on.
        held_out: rows set aside for the evaluation.
        validation: rows set aside to choose by during training (when to stop, for one).
        seed: of the split.
        held_out_data: the source of ``held_out``, where that is a file of its own.

    Returns:
        A value that JSON can hold: ``source`` and, where there is one, ``held_out_source`` (name, sha256, format and
        the ledger's counts), ``split_seed``, and for train, validation and held_out a list of ``{"row", "sha256",
        "prompt_sha256"}``.
        Call it when the ledger is final, since the counts are taken then.
    """
    manifest: JsonDict = {"manifest_format": _MANIFEST_FORMAT, "source": _describe(data), "split_seed": seed}
    if held_out_data is not None:
        manifest["held_out_source"] = _describe(held_out_data)
    for part, examples in (("train", train), ("validation", validation), ("held_out", held_out)):
        manifest[part] = [
            {"row": example.row, "sha256": example_hash(example), "prompt_sha256": prompt_hash(example)}
            for example in examples
        ]
    return manifest


def _describe(data: LoadedData) -> JsonDict:
    # A file's folders say nothing about the data, and a manifest travels with its model.
    name = data.source if is_hub_id(data.source) else Path(data.source).name
    counts = data.ledger.summary()
    return {
        "name": name,
        "sha256": data.sha256,
        "format": data.format,
        **{key: counts[key] for key in ("rows", "kept", "cut", "dropped", "cut_tokens", "codes")},
    }
