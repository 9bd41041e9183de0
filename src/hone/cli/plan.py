"""``hone plan``: what training would cost, before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of
from hone.cli.output import console, labelled, print_json, result_stream, say, show, text_columns
from hone.cli.tables import byte_size, duration, text_table
from hone.config import PlanConfig
from hone.errors import ConfigError
from hone.home import hone_home

__all__ = ["plan"]

_Json = Mapping[str, Any]
_Lines = Iterator[str | Text]


@options_of(PlanConfig, arguments=("data",))
def plan(
    *,
    context: typer.Context,
    history: Annotated[
        bool, typer.Option("--history", help="Show what was predicted of earlier runs, and what they took; no DATA.")
    ] = False,
    as_json: JsonOption = False,
    config_file: ConfigFileOption = None,
    **given: Any,
) -> None:
    """What a run would cost, before anything starts.

    Memory, time and money of each way of training on this machine or another, and which one hone would choose.
    Nothing is trained; where the base can be loaded, two steps are timed, once; of a method that writes its own
    answers one, with its answers.
    """
    home = hone_home()
    if history:
        _refuse_data(given)
        from hone.recipe import plan as recipe

        found = recipe.plan_history(home)
        if as_json:
            print_json(found)
        else:
            _print(_history_lines(found, text_columns(console(sys.stdout))))
        return
    config = load_options(context, PlanConfig, given, file=config_file)
    from hone.recipe import plan as recipe

    with result_stream(as_json):
        planned = recipe.plan(config, home=home, note=lambda text: say(f"note: {text}"))
    if as_json:
        print_json(planned)
    else:
        _print(_plan_lines(planned, text_columns(console(sys.stdout))))


def _refuse_data(given: Mapping[str, Any]) -> None:
    named = sorted(f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None)
    if named:
        raise ConfigError(
            f"{', '.join(named).replace('--data', 'DATA')} cannot be given together with it",
            where="--history",
            remedy="give --history alone, or leave it out to plan a run",
        )


def _print(lines: _Lines) -> None:
    for line in lines:
        show(line)


def _plan_lines(planned: _Json, columns: int) -> _Lines:
    data, model, machine = planned["data"], planned["model"], planned["machine"]
    guessed = ", tokens estimated from bytes" if data["tokens_are_estimated"] else ""
    rows = (
        f"{data['train']} rows to train on, {data['validation']} to choose the step that is kept, "
        f"{data['held_out']} held out"
    )
    yield labelled("Data", f"{rows}{guessed}", columns=columns)
    yield labelled("Model", f"{model['name']}, {model['parameters'] / 1e6:.0f}M parameters", columns=columns)
    yield labelled("Method", f"{planned['method']['name']}: {planned['method']['reason']}", columns=columns)
    place = machine["title"] or "this machine"
    yield labelled("Machine", f"{place}, {byte_size(machine['free_bytes'])} free", columns=columns)
    yield labelled("Speed", str(machine["rates"]["source"]), columns=columns)
    yield ""
    yield from text_table([_heading(planned), *map(_row, planned["estimates"])], right=(1, 2, 3, 4))
    yield ""
    if rollouts := planned["estimates"][0]["rollouts"]:
        text = (
            f"{rollouts['answers']:,} are written, of {rollouts['answer_tokens']:g} tokens and at most "
            f"{rollouts['most_answer_tokens']}; with the longest ones it takes {duration(rollouts['most_seconds'])}"
        )
        yield labelled("Answers", text, columns=columns)
    chosen = planned["chosen"]
    yield labelled("Chosen", f"{chosen['name']}: {chosen['reason']}", columns=columns)
    for choice in planned["choices"]:
        value = "" if choice["value"] is None else f"{choice['value']:g}"
        yield labelled("", f"{choice['name']} {value}: {choice['reason']}", columns=columns, hang=2)
    if (seeds := planned["seeds"])["trainings"] > 1:
        text = f"{seeds['trainings']} trainings, one after the other, {duration(seeds['seconds'])} in all"
        yield labelled("Seeds", text, columns=columns)
    if not chosen["starts"]:
        yield labelled("Too large", "hone run would refuse to start it. What would fit:", columns=columns)
        for one in chosen["remedies"]:
            figures = f"{byte_size(one['peak_memory_bytes'])}, {duration(one['seconds'])}"
            yield labelled("", f"{one['options']}: {figures}", columns=columns, hang=2)
        if not chosen["remedies"]:
            yield labelled("", "no single change; use a smaller model or a larger machine", columns=columns)
    for text in planned["left_out"]:
        yield labelled("Left out", text, columns=columns)
    yield from _error_lines(planned["error"], columns)


def _heading(planned: _Json) -> list[str]:
    currency = planned["machine"]["currency"] or "price"
    return ["way", "memory", "time", "tokens", currency, "fits", "limited by"]


def _row(one: _Json) -> list[str]:
    price = "" if one["price"] is None else f"{one['price']:.2f}" if one["price"] >= 0.01 else f"{one['price']:.4f}"
    if one["price"] is None and one["watt_hours"] is not None:
        price = f"{one['watt_hours']:.1f} Wh"
    fits = one["fits"] or "not known"
    return [
        one["name"],
        byte_size(one["peak_memory_bytes"]),
        _time(one),
        f"{one['tokens']:,}",
        price,
        f"{fits}; needs {one['needs']}" if one["needs"] else fits,
        one["limit"],
    ]


def _time(one: _Json) -> str:
    """Of methods that write answers also the time with the longest ones."""
    expected, most = duration(one["seconds"]), duration(one["rollouts"]["most_seconds"] if one["rollouts"] else 0)
    return f"{expected} to {most}" if one["rollouts"] and most != expected else expected


def _error_lines(error: _Json, columns: int) -> _Lines:
    if not error["runs"]:
        yield labelled("Off by", "not known yet: no run was planned and finished on this machine", columns=columns)
        return
    parts = []
    for figure, name in (("seconds", "time"), ("peak_memory_bytes", "memory")):
        if error[figure] is not None:
            parts.append(f"{name} {error[figure]['median']:.0%}, at most {error[figure]['largest']:.0%}")
    runs = f"{error['runs']} run{'' if error['runs'] == 1 else 's'}"
    yield labelled("Off by", f"median over {runs}: {'; '.join(parts)}", columns=columns)


def _history_lines(found: _Json, columns: int) -> _Lines:
    rows = [["run", "method", "time", "predicted", "error", "memory", "predicted", "error"]]
    for entry in found["history"]:
        cells = [entry["name"], entry["method"]]
        for figure, write in (("seconds", duration), ("peak_memory_bytes", byte_size)):
            predicted, actual = entry["predicted"][figure], entry["actual"][figure]
            cells += [write(actual), write(predicted), f"{predicted / max(actual, 1e-9) - 1:+.0%}"]
        rows.append(cells)
    if len(rows) > 1:
        yield from text_table(rows, right=(2, 3, 4, 5, 6, 7))
        yield ""
    yield from _error_lines(found["error"], columns)
