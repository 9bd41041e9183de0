"""Machines that one does not have, and what machines cost: a small table that its user may change.

The packaged table is ``machines.yaml`` beside this file. ``machines.yaml`` in the home folder goes before it, machine
by machine and figure by figure; the name ``this`` there gives price and power of the user's own machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hone.errors import ConfigError
from hone.planning.rates import Rates

__all__ = ["THIS_MACHINE", "Machine", "parse_rate", "rates_of", "read_machines"]

THIS_MACHINE = "this"
_FIGURES = ("memory_gb", "bfloat16_tflops", "memory_gb_per_second", "price_per_hour", "watts")
_TEXTS = ("title", "currency", "source")
# Share of the peak that training reaches: published for LoRA of an 8B model on an H100 by an open stack, 43% (12.5
# thousand tokens a second); nothing of hone was measured on a card.
_REACHED = 0.4
_REACHED_HEAD = 0.3
_REACHED_ATTENTION = 0.3
# A training step on a card launches some sixty kernels for a layer, forwards and backwards.
_SECONDS_A_LAYER = 6e-4
_STORED_BYTES_PER_SECOND = 5e8
# Tokens are drawn by the host's processor, whatever the card.
_SECONDS_A_DRAWN_VALUE = 1e-8


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, or card.

    Args:
        name: as ``--target-device`` has it.
        title: for people.
        memory_gb: in GB of 10^9 bytes; None for this machine, which is measured.
        bfloat16_tflops: of dense matrix products at the peak.
        memory_gb_per_second: bandwidth.
        price_per_hour: None where not known.
        currency: of the price.
        watts: drawn under load; None where not known.
        source: of the figures.
    """

    name: str
    title: str = ""
    memory_gb: float | None = None
    bfloat16_tflops: float | None = None
    memory_gb_per_second: float | None = None
    price_per_hour: float | None = None
    currency: str = "USD"
    watts: float | None = None
    source: str = ""


def read_machines(home: Path) -> dict[str, Machine]:
    """The packaged machines with the user's changes, by name; :data:`THIS_MACHINE` is always among them.

    Args:
        home: hone's home folder.

    Raises:
        ConfigError: the user's table is no mapping of machines, or holds a figure that is none; all such are named.
    """
    packaged = resources.files("hone.planning").joinpath("machines.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = {THIS_MACHINE: {}, **yaml.safe_load(packaged)}
    path = home / "machines.yaml"
    if path.is_file():
        for name, entry in _own_table(path).items():
            table[name] = {**table.get(name, {}), **entry}
    return {name: Machine(name, **entry) for name, entry in table.items()}


def _own_table(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    remedy = "write a machine and its figures below it, as docs/plan.md shows"
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ConfigError("is no table of machines", where=str(path), remedy=remedy)
    problems = []
    for name, entry in table.items():
        for key, value in entry.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if key not in (*_FIGURES, *_TEXTS):
                problems.append(f"{name}: {key} is not known; there are {', '.join((*_FIGURES, *_TEXTS))}")
            elif key in _FIGURES and not is_number:
                problems.append(f"{name}: {key} is {value!r}, and must be a number of at least 0")
            elif key in _TEXTS and not isinstance(value, str):
                problems.append(f"{name}: {key} is {value!r}, and must be text")
    if problems:
        raise ConfigError(f"{len(problems)} entries are wrong", where=str(path), details=problems, remedy=remedy)
    return table


def parse_rate(text: str) -> float:
    """``2.5/h`` or ``2.5``: money for an hour.

    Raises:
        ConfigError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:/\s*h)?\s*", text)
    if found is None:
        raise ConfigError(f"{text!r} is no rate", where="--rate", remedy="give money for an hour, as 2.5/h")
    return float(found[1])


def rates_of(machine: Machine) -> Rates:
    """Speeds of a machine that one does not have, from its peak figures and the share of them that others reached.

    Raises:
        ConfigError: its table entry lacks peak or bandwidth.
    """
    missing = [
        name for name in ("memory_gb", "bfloat16_tflops", "memory_gb_per_second") if getattr(machine, name) is None
    ]
    if missing:
        raise ConfigError(
            f"the table says no {', '.join(missing)} of {machine.name}",
            where="--target-device",
            remedy="add it in machines.yaml of the home folder",
        )
    assert machine.bfloat16_tflops is not None
    assert machine.memory_gb_per_second is not None
    peak, bandwidth = machine.bfloat16_tflops * 1e12, machine.memory_gb_per_second * 1e9
    return Rates(
        narrow_per_second=_REACHED * peak / 2,  # narrow products fill no card
        wide_per_second=_REACHED * peak,
        head_per_second=_REACHED_HEAD * peak,
        attention_per_second=_REACHED_ATTENTION * peak,
        bytes_per_second=0.7 * bandwidth,
        seconds_a_layer=_SECONDS_A_LAYER,
        seconds_a_trained_value=28 / (0.7 * bandwidth),  # three float32 read, four written
        stored_bytes_per_second=_STORED_BYTES_PER_SECOND,
        seconds_a_drawn_value=_SECONDS_A_DRAWN_VALUE,
        bytes_per_value=2,
        source=f"{machine.title}: {_REACHED:.0%} of its peak, which others reached; hone was not measured on it",
    )
