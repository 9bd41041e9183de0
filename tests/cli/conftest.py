"""What the tests of the command line share: a tiny base on disk, rows, and one finished run to look at."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hone.cli.app import main
from tests.tiny import save_tiny


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON value that it must be."""
        return json.loads(self.out)


Hone = Callable[..., Ended]


def write_rows(path: Path, count: int) -> Path:
    """Question-and-answer rows in JSON Lines, short enough for a tiny model."""
    rows = [
        {"prompt": f"what is the answer to order {number}?", "completion": f"the lamp {number * 7 % 10} is lit"}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama as a model folder."""
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny", max_position_embeddings=512)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of 24 rows."""
    return write_rows(tmp_path / "orders.jsonl", 24)


@pytest.fixture
def hone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hone:
    """Run a command line in this process."""

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(str(ended.code))
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


@dataclass(frozen=True)
class FinishedRun:
    """A run made with ``hone run --json``: its home, its rows, and how it ended."""

    home: Path
    rows: Path
    ended: Ended


@pytest.fixture(scope="session")
def finished_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One whole run, for all tests that only look at what it left."""
    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "orders.jsonl", 24)
    rows.write_text(rows.read_text(encoding="utf-8") + '{"prompt": "q"}\nno json\n', encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    command = ["run", str(rows), "--model", str(tiny_base), "--max-steps", "6", "--max-new-tokens", "8"]
    command += ["--probes", "1", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONE_HOME", str(folder / "home"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main(command)
    return FinishedRun(folder / "home", rows, Ended(code, out.getvalue(), err.getvalue()))


@pytest.fixture
def at_home(finished_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """The finished run, with its home in force."""
    monkeypatch.setenv("HONE_HOME", str(finished_run.home))
    return finished_run
