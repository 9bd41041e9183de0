"""``hone doctor``: what this machine can do, what is missing, and one line to mend each thing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from hone.cli.options import JsonOption
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.cli.tables import byte_size
from hone.home import hone_home

__all__ = ["doctor"]

_Json = Mapping[str, Any]


def doctor(*, as_json: JsonOption = False) -> None:
    """What this machine can do, and what is missing.

    Devices, memory, number formats, packages; one line to mend each thing.
    """
    from hone.model.machine import describe_machine

    with result_stream(as_json):
        machine = describe_machine(hone_home())
    if as_json:
        print_json({"schema": 1, **machine})
        return
    for line in _lines(machine, text_columns(console(sys.stdout))):
        show(line)


def _lines(machine: _Json, columns: int) -> Iterator[str | Text]:
    system, processor, memory = machine["system"], machine["processor"], machine["memory"]
    yield labelled("Version", f"hone {machine['hone']} on {system['name']} {system['release']}", columns=columns)
    cores = f"{processor['cores_usable']} of {processor['cores_present']} cores usable"
    threads = f"torch computes with {processor['threads_of_torch']}"
    yield labelled("Processor", f"{processor['name']}, {system['machine']}; {cores}, {threads}", columns=columns)
    amounts = f"{byte_size(memory['total_bytes'])}, {byte_size(memory['available_bytes'])} free"
    yield labelled("Memory", amounts, columns=columns)
    for place, device in enumerate(machine["devices"]):
        text = f"{device['device']}: {device['name']}, {byte_size(device['memory_bytes'])}; "
        text += f"{device['dtype']}, {device['why']}"
        yield labelled("" if place else "Devices", text, columns=columns, hang=2)
    chosen = machine["chosen"]
    text = f"{chosen['device']} with {chosen['dtype']}; --device and --dtype choose otherwise"
    yield labelled("Chosen", text, columns=columns)
    packages = [f"{one['name']} {one['version']}" + _in_brackets(one["note"]) for one in machine["packages"]]
    yield labelled("Packages", ", ".join(packages), columns=columns)
    for place, one in enumerate([*machine["needed"], *machine["extras"]]):
        state = str(one["version"]) if one["installed"] else f"not installed; {one['install']}"
        yield labelled("" if place else "Further", f"{one['name']} ({one['for']}): {state}", columns=columns, hang=2)
    base = machine["embedded_base"]
    state = "installed" if base["installed"] else f"not installed; {base['install']}"
    yield labelled("Base", f"{base['name']}, the default: {state}", columns=columns)
    home = machine["home"]
    text = f"{home['path']}: {byte_size(home['free_bytes'])} free{'' if home['writable'] else ', cannot be written'}"
    yield labelled("Home", text, columns=columns)
    yield ""
    if not machine["problems"]:
        yield "Nothing is missing."
    for number, problem in enumerate(machine["problems"], 1):
        yield labelled("Mend", problem, columns=columns) if number == 1 else labelled("", problem, columns=columns)


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""
