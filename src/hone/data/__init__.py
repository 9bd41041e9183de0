"""Rows -> examples, each accounted for; examples -> training and held-out parts, and the manifest that names them."""

from __future__ import annotations

from hone.data.formats import FormatMapping, detect_format, example_to_openai, to_example
from hone.data.ledger import Ledger, LedgerEntry
from hone.data.loader import LoadedData, load_examples
from hone.data.manifest import build_manifest, example_hash
from hone.data.source import RawRow, read_rows, source_hash
from hone.data.split import Split, near_copies, prompt_key, split_examples

__all__ = [
    "FormatMapping",
    "Ledger",
    "LedgerEntry",
    "LoadedData",
    "RawRow",
    "Split",
    "build_manifest",
    "detect_format",
    "example_hash",
    "example_to_openai",
    "load_examples",
    "near_copies",
    "prompt_key",
    "read_rows",
    "source_hash",
    "split_examples",
    "to_example",
]
