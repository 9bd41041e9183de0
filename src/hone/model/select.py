"""Layers and tensors chosen by name: glob patterns against the dotted names of a model.

A pattern fits a name as a whole (``model.layers.1*.mlp.*``), by a module around it (``model.layers.29`` fits all that
is inside), or by the last part of either (``q_proj``, ``mlp``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from hone.errors import ModelError

__all__ = ["select_names"]

_SHOWN_NAMES = 5


def select_names(patterns: Sequence[str], names: Iterable[str], *, what: str) -> list[str]:
    """The names that some pattern fits, in the order they came in.

    Args:
        patterns: globs with ``*``, ``?`` and ``[...]``.
        names: dotted names.
        what: what the names are, for the message.

    Raises:
        ModelError: a pattern fits nothing; every such pattern is named, with the nearest names.
    """
    known = list(names)
    idle = [pattern for pattern in patterns if not any(_fits(pattern, name) for name in known)]
    if idle:
        raise ModelError(
            f"{len(idle)} of {len(patterns)} patterns fit no {what} of this model",
            where="--layers",
            details=[f"{pattern}: {_nearest(pattern, known)}" for pattern in idle],
            why="what is not matched would silently not be trained",
            remedy="compared are whole names, modules around them (model.layers.3) and last parts (q_proj, mlp)",
        )
    return [name for name in known if any(_fits(pattern, name) for pattern in patterns)]


def _fits(pattern: str, name: str) -> bool:
    return any(
        fnmatchcase(around, pattern) or fnmatchcase(around.rpartition(".")[2], pattern) for around in _around(name)
    )


def _around(name: str) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _nearest(pattern: str, known: Sequence[str]) -> str:
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    near = difflib.get_close_matches(pattern, known, n=3) or difflib.get_close_matches(pattern, leaves, n=3)
    return "did you mean " + ", ".join(near) + "?" if near else "there is " + ", ".join([*known[:_SHOWN_NAMES], "..."])
