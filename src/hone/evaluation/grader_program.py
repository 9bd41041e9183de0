"""A grader that is a Python program, in a process of its own with bounds on memory, time and files.

This limits mistakes, not malice: the program runs as the user who started hone, and could read what he can. So a
server runs such graders only where its owner has said so.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hone.errors import HoneError
from hone.files import write_atomically

__all__ = ["GraderProgramError", "run_grader_program"]

# OpenAI's own bounds on time and memory.
_TIMEOUT_SECONDS = 120.0
_MOST_SAID_BYTES = 2000
_MOST_SCORE_BYTES = 100
# In the fresh process: 2 GiB of memory, 2 minutes of a core, no file beyond 1 MiB, then the program. The score goes
# into a file, so that the program may print what it likes.
_RUNNER = """
import json, resource, runpy, sys
for kind, most in (
    (resource.RLIMIT_CPU, 120), (resource.RLIMIT_AS, 2 * 2**30),
    (resource.RLIMIT_FSIZE, 2**20), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (most, most))
given = json.load(sys.stdin)
score = float(runpy.run_path(sys.argv[1])["grade"](given["sample"], given["item"]))
with open(sys.argv[2], "w") as file:
    json.dump(score, file)
"""
# Libraries that start a thread for each core would need more memory than there is.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class GraderProgramError(HoneError):
    """The program gave no score; the message ends with the last line that it wrote to its error stream."""


def run_grader_program(source: str, *, sample: Any, item: Any, timeout_seconds: float = _TIMEOUT_SECONDS) -> float:
    """What the program's ``grade(sample, item)`` returns. What it prints is thrown away.

    Args:
        source: the program.
        sample: its first argument, as JSON values.
        item: its second.
        timeout_seconds: how long it may take; then it is ended, with whatever it has started.

    Raises:
        GraderProgramError: it fails, returns no finite number, or takes too long or too much.
    """
    given = json.dumps({"sample": sample, "item": item}, ensure_ascii=True)
    with tempfile.TemporaryDirectory(prefix="hone-grader-") as name, tempfile.TemporaryFile() as errors:
        program, score = Path(name) / "grader.py", Path(name) / "score.json"
        write_atomically(program, source)
        code = _run([str(program), str(score)], given, errors, timeout_seconds)
        if code:
            raise GraderProgramError(_end_of(errors) or f"the program ended with code {code}")
        return _read_score(score)


def _run(arguments: list[str], given: str, errors: IO[bytes], timeout_seconds: float) -> int:
    """Run the program to its end, and end what it leaves running; gives its exit status."""
    command = [sys.executable, "-I", "-c", _RUNNER, *arguments]
    with tempfile.TemporaryDirectory(prefix="hone-grader-work-") as work, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True, encoding="utf-8",
        cwd=work, env=_ENVIRONMENT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            process.communicate(given, timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise GraderProgramError(f"the program took more than {timeout_seconds:g} seconds") from error
        finally:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS calls that the second
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode


def _end_of(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MOST_SAID_BYTES))
    return errors.read().decode("utf-8", "replace").strip()


def _read_score(path: Path) -> float:
    try:
        with path.open("rb") as file:
            score = json.loads(file.read(_MOST_SCORE_BYTES))
    except FileNotFoundError as error:
        raise GraderProgramError("the program ended before it gave a score") from error
    except ValueError as error:
        raise GraderProgramError("the program wrote something else in its score's place") from error
    if not isinstance(score, float) or not math.isfinite(score):
        raise GraderProgramError(f"the score is {score}")
    return score
