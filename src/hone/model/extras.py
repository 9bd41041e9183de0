"""Packages that only some uses of hone need: what each is for, whether it is there, and the line that installs it."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress

from hone.types import JsonDict

__all__ = ["EXTRAS", "needed_packages", "optional_extras"]

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "parquet": (("pyarrow",), "data sets in Parquet files"),
    "hub": (("datasets",), "data sets from the hub"),
    "peft": (("peft",), "further adapters, and checking adapters against the library that reads them elsewhere"),
    "4bit": (("bitsandbytes",), "a base in 4 bits: --quantize"),
    "pdf": (("pypdf",), "PDF files among --documents"),
    "lm-eval": (("lm-eval",), "tasks of lm-evaluation-harness: --lm-eval"),
    "presidio": (("presidio-analyzer",), "personal data found by Presidio: hone data check --presidio"),
    "serve": (
        ("fastapi", "uvicorn", "starlette", "anyio", "python-multipart", "nltk"),
        "the server: hone serve",
    ),
}
"""Each extra of ``pyproject.toml`` that is not for hone's own tests: its packages, and what it is for."""

# What transformers needs for a part of its work that hone relies on, and does not bring by itself.
_NEEDED = {
    "accelerate": "reading GGUF files, the embedded base among them",
    "gguf": "reading GGUF files, the embedded base among them",
}


def optional_extras() -> list[JsonDict]:
    """Each extra, under the name of its first package; it is installed where all of its packages are.

    Returns:
        Objects with ``name``, ``extra``, ``for``, ``installed``, ``version`` (of the first package) and ``install``.
    """
    found = []
    for extra, (packages, purpose) in EXTRAS.items():
        versions = [_version(name) for name in packages]
        found.append({
            "name": packages[0], "extra": extra, "for": purpose, "installed": None not in versions,
            "version": versions[0], "install": f"pip install 'hone-llm[{extra}]'",
        })  # fmt: skip
    return found


def needed_packages() -> list[JsonDict]:
    """The packages that hone cannot do without: the same fields without ``extra``."""
    found = []
    for name, purpose in _NEEDED.items():
        version = _version(name)
        found.append({
            "name": name, "for": purpose, "installed": version is not None, "version": version,
            "install": f"pip install {name}",
        })  # fmt: skip
    return found


def _version(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None
