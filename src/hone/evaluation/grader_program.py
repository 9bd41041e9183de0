"""A grader that is a Python program, in a process of its own with little of everything.

This limits mistakes, not malice: the program runs as the user who started hone, and could read what he can. So a
server runs such graders only where its owner has said so.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hone.errors import HoneError
from hone.files import write_atomically

__all__ = ["GraderProgramError", "run_grader_program"]

_TIMEOUT_SECONDS = 10.0
_MOST_OUTPUT_CHARACTERS = 2000
# In the fresh process: no files beyond 1 MiB, 512 MiB of memory, 5 seconds of a core, then the program.
_RUNNER = """
import json, resource, runpy, sys
for kind, most in (
    (resource.RLIMIT_CPU, 5), (resource.RLIMIT_AS, 512 * 2**20),
    (resource.RLIMIT_FSIZE, 2**20), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (most, most))
given = json.load(sys.stdin)
names = runpy.run_path(sys.argv[1])
score = float(names["grade"](given["sample"], given["item"]))
print("\\n" + json.dumps(score))
"""


class GraderProgramError(HoneError):
    """The program gave no score; the message ends with the last line that it printed."""


def run_grader_program(source: str, *, sample: Any, item: Any) -> float:
    """What the program's ``grade(sample, item)`` returns.

    Args:
        source: the program.
        sample: its first argument, as JSON values.
        item: its second.

    Raises:
        GraderProgramError: it fails, returns no finite number, or takes too long or too much.
    """
    with tempfile.TemporaryDirectory(prefix="hone-grader-") as folder:
        path = Path(folder) / "grader.py"
        write_atomically(path, source)
        command = [sys.executable, "-I", "-c", _RUNNER, str(path)]
        given = json.dumps({"sample": sample, "item": item}, ensure_ascii=True)
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, text=True, encoding="utf-8", errors="replace", cwd=folder,
                env={}, timeout=_TIMEOUT_SECONDS, check=False, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise GraderProgramError(f"the program took more than {_TIMEOUT_SECONDS:g} seconds") from error
    if done.returncode:
        said = done.stderr.strip()[-_MOST_OUTPUT_CHARACTERS:]
        raise GraderProgramError(said or f"the program ended with code {done.returncode}")
    try:
        score = float(json.loads(done.stdout.rstrip("\n").rpartition("\n")[2]))
    except ValueError as error:
        raise GraderProgramError("the program printed something after its score") from error
    if not math.isfinite(score):
        raise GraderProgramError(f"the score is {score}")
    return score
