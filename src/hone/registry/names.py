"""The names of versions and aliases: the rule, and the name that a data file suggests."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from hone.errors import ConfigError

__all__ = ["check_alias", "check_name", "slug", "version_name_for"]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_DATA_SUFFIXES = {".csv", ".gz", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt"}
_GENERIC = {"data", "dataset", "datasets", "examples", "input", "rows", "samples", "test", "train", "training"}
_FALLBACK = "specialist"


def check_name(name: str) -> str:
    """The name itself, where it may be a version's name.

    Raises:
        ConfigError: it is not 1 to 64 lowercase letters, digits and ``-_.``, with a letter or digit at both ends.
    """
    if not _NAME.fullmatch(name):
        suggestion = slug(name)
        raise ConfigError(
            f"{name!r} cannot be a name: names are 1 to 64 lowercase letters, digits, '-', '_' and '.', "
            "and begin and end with a letter or a digit",
            where="name",
            remedy=f"for example: {suggestion}" if suggestion else "choose another name with --name",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself, where it may be one by the rule for names: not `base`, and not digits, as version numbers are.

    Raises:
        ConfigError: it breaks the rule.
    """
    if alias.isdigit():
        raise ConfigError(
            f"{alias!r} cannot be an alias: it reads as a version's number",
            where="alias",
            remedy="for example: production",
        )
    if alias == "base":
        raise ConfigError(
            "'base' cannot be an alias: it is the model that a version was trained from",
            where="alias",
            remedy="for example: production",
        )
    return check_name(alias)


def slug(text: str) -> str:
    """The nearest text that keeps the rule for names; empty where nothing of ``text`` can stay."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", plain)[:64].strip("-_.")


def version_name_for(path: str | Path) -> str:
    """The name for a version trained on a data file: the file's, or its folder's where the file's says nothing.

    ``support.jsonl`` and ``support/train.jsonl`` give ``support``; so does the hub data set ``acme/support:train``.

    Args:
        path: a data file, existing or not, or a hub id.
    """
    text = str(path)
    hub_id = re.fullmatch(r"(?P<id>[\w.-]+/[\w.-]+):[^/\\]+", text)
    place = Path(hub_id["id"] if hub_id else text).absolute()
    stem = place.name
    while Path(stem).suffix.lower() in _DATA_SUFFIXES:
        stem = Path(stem).stem
    for candidate in (stem, *(parent.name for parent in place.parents)):
        name = slug(candidate)
        if name and name not in _GENERIC:
            return name
    return _FALLBACK
