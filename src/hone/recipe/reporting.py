"""The report of a run: what the result says, with the curves, the rows and every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hone.config.schema import TrainConfig
from hone.evaluation.report import write_report
from hone.files import write_atomically
from hone.registry.runs import RunFolder
from hone.types import JsonDict

__all__ = ["write_run_report"]


def write_run_report(
    folder: RunFolder, config: TrainConfig, result: Mapping[str, Any], *, answers: Sequence[JsonDict]
) -> Path:
    """Write ``report.html``, ``report.md``, ``evaluation.json`` and ``answers.jsonl`` into the run's folder.

    Args:
        folder: the run; its metrics and ledger are read.
        config: with every number resolved, shown as settings.
        result: the machine-readable result.
        answers: every held-out row with each arm's answer.

    Returns:
        The page's path.

    Raises:
        StorageError: a file cannot be written.
    """
    metrics = _lines(folder.metrics)
    curves = {
        "training": [[line["step"], line["loss"]] for line in metrics if line["event"] == "step"],
        "validation": [[line["step"], line["loss"]] for line in metrics if line["event"] == "validation"],
    }
    dropped = [line for line in _lines(folder.ledger) if line["status"] == "dropped"]
    more = {
        "answers": list(answers),
        "curves": curves,
        "dropped_rows": dropped,
        "settings": config.model_dump(mode="json", by_alias=True, exclude_none=True),
        "repeat": f"hone run --config {folder.config}",
        "created": folder.created_at,
    }
    lines = (json.dumps(row, ensure_ascii=False) for row in answers)
    # A lone half of a surrogate pair cannot be encoded; as a backslash escape it stays legal JSON.
    write_atomically(folder.answers, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    return write_report(folder.path, {**result, **more})


def _lines(path: Path) -> list[JsonDict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
