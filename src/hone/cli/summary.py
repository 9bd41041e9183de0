"""The results of ``hone run``, ``hone train`` and ``hone evaluate`` for people: short, with measured figures only."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from hone.cli.comparison import comparison_lines, example_lines, proof_lines, verdict_lines
from hone.cli.output import LABEL_COLUMNS, console, harmless, labelled, show, text_columns
from hone.cli.retention import retention_lines
from hone.cli.seeds import seeds_lines, seeds_trained
from hone.cli.tables import byte_size, duration

__all__ = ["print_evaluation", "print_run", "print_training"]

_Json = Mapping[str, Any]
_Lines = Iterator[str | Text]


def print_run(result: _Json) -> None:
    """Print what ``hone run`` found.

    Args:
        result: the object that ``--json`` prints.
    """
    columns = text_columns(console(sys.stdout))
    _print(_run_lines(result, columns))


def print_training(result: _Json) -> None:
    """Print what ``hone train`` did.

    Args:
        result: the object that ``--json`` prints.
    """
    columns = text_columns(console(sys.stdout))
    folder = shlex.quote(result["run_dir"])
    _print(_training_lines(result, columns))
    _print(proof_lines(result["proof"], columns=columns))
    show(_line("Adapter", str(Path(result["run_dir"]) / "adapter")))
    show(_line("Next", _first_use(folder, result, chat=f"hone chat {folder}")))
    show(_line("", f"hone evaluate {folder} HELD_OUT.jsonl"))


def print_evaluation(result: _Json) -> None:
    """Print what ``hone evaluate`` found.

    Args:
        result: the object that ``--json`` prints.
    """
    columns = text_columns(console(sys.stdout))
    show(Text(str(result["version"]), style="bold"))
    _print(_row_counts(result["data"], columns))
    show()
    _print(comparison_lines(result["evaluation"], columns=columns))
    _print(example_lines(result["evaluation"], columns=columns))
    _print(retention_lines(result.get("retention"), columns=columns))
    show()
    if result["proof"]:
        _print(proof_lines(result["proof"], columns=columns))
    if result["verdict"]:
        _print(verdict_lines(result["verdict"], columns=columns, reasons="--json"))


def _run_lines(result: _Json, columns: int) -> _Lines:
    yield Text(f"{result['version']} ({result['status']})", style="bold")
    yield from _training_lines(result, columns)
    if further := seeds_trained(result["evaluation"]):
        yield labelled("", further, columns=columns)
    yield ""
    yield from comparison_lines(result["evaluation"], columns=columns)
    yield from seeds_lines(result["evaluation"], columns=columns)
    yield from example_lines(result["evaluation"], columns=columns)
    yield from retention_lines(result.get("retention"), columns=columns)
    yield ""
    yield from proof_lines(result["proof"], columns=columns)
    yield from verdict_lines(result["verdict"], columns=columns, reasons="the report")
    if result["status"] == "unproven":
        text = "Beware: unproven, as the proof above says; it is neither promoted nor exported until that is mended."
        yield labelled("", text, columns=columns, hang=2)
    yield _line("Report", result["report"])
    version = result["version"]
    yield _line("Next", _first_use(version, result, chat=f"hone chat {version} --base"))


def _first_use(name: str, result: _Json, *, chat: str) -> str:
    """The command that tries what was trained: ``chat``, but a reward model writes no answers."""
    return f"hone reward score {name} FILE" if result["training"]["method"] == "reward" else chat


def _training_lines(result: _Json, columns: int) -> _Lines:
    data, training = result["data"], result["training"]
    yield from _row_counts(data, columns)
    validation, held_out = data["validation"], data["held_out"]
    steps, rows_used = _steps(training), training["rows_used"]
    trained_on = "trained on" if rows_used == data["train"] else f"of {data['train']} trained on, in {steps}"
    parts = {trained_on: rows_used, "to choose the step that is kept": validation, "held out": held_out}
    used = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    yield labelled("", used, columns=columns)
    if training["replay"]["rows"]:
        yield labelled("", f"{training['replay']['rows']} general rows beside them, to keep what the base could do",
                       columns=columns)  # fmt: skip
    yield from _first_dropped(Path(result["run_dir"]) / "ledger.jsonl", data["source"], columns)
    yield labelled("Training", _training_sentence(training, result["base"]), columns=columns)


def _row_counts(data: _Json, columns: int) -> _Lines:
    counts = [f"{data['kept']} kept"]
    counts += [f"{data['cut']} cut"] if data["cut"] else []
    reasons = ", ".join(f"{code} {count}" for code, count in data["codes"].items())
    counts += [f"{data['dropped']} dropped ({reasons})"] if data["dropped"] else ["none dropped"]
    yield labelled("Data", f"{data['rows']} rows read: {', '.join(counts)}", columns=columns)


def _first_dropped(ledger: Path, source: str, columns: int) -> _Lines:
    """The first row that was left out, as its ledger says it; a run without its ledger has nothing to add."""
    try:
        entries = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return
    dropped = [entry for entry in entries if entry["status"] == "dropped"]
    if dropped:
        text = f"{source}:{dropped[0]['line']}: {dropped[0]['reason']}"
        yield labelled("", f"first dropped: {text}", columns=columns, hang=2)
        yield _line("", f"what became of each row: {ledger}")


def _training_sentence(training: _Json, base: _Json) -> str:
    steps = _steps(training)
    if training["stopped_early"]:
        steps += f" of {training['total_steps']} (stopped early, the validation loss had risen)"
    memory = f"at most {byte_size(training['peak_memory_bytes'])} of memory"
    if training["peak_device_memory_bytes"]:
        memory += f" and {byte_size(training['peak_device_memory_bytes'])} on {base['device']}"
    speed = training["tokens_per_second"]
    parts = [f"{steps} in {duration(training['seconds'])}", f"{speed:.0f} tokens/s" if speed else "", memory]
    if training["validation_loss"] is not None:
        parts.append(f"validation loss {training['validation_loss']:.3f} at step {training['best_step']}, kept")
    return ", ".join(part for part in parts if part)


def _steps(training: _Json) -> str:
    return f"{training['steps']} step{'' if training['steps'] == 1 else 's'}"


def _line(label: str, text: str) -> Text:
    """A path or a command, which is not to be broken."""
    return Text.assemble((f"{label:<{LABEL_COLUMNS}}", "bold"), harmless(text))


def _print(lines: Iterable[str | Text]) -> None:
    for line in lines:
        show(line)
