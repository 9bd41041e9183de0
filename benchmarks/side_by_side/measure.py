"""Start measurements as fresh processes and keep what they say, one line each, so that an interrupted run goes on.

No torch is imported here: a heavy parent would be part of every child's memory at the fork.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from side_by_side.machine import Others
from side_by_side.spec import Spec
from side_by_side.systems import System

_PACKAGES = Path(__file__).resolve().parent.parent
_TAIL_LINES = 3


@dataclass(frozen=True)
class Environments:
    """Whose Python runs which system.

    Args:
        pythons: interpreters by environment name; ``own`` is always there.
        threads: of every measured process.
    """

    pythons: dict[str, str]
    threads: int

    def variables(self, environment: str) -> dict[str, str]:
        """Environment variables of a child: threads, no network, and where the drivers (and hone) are found."""
        paths = [str(_PACKAGES)]
        if environment == "own":
            paths.append(str(hone_folder().parent))
        fixed = {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        return {**os.environ, **fixed}


def hone_folder() -> Path:
    """Where the hone that is measured lies."""
    found = importlib.util.find_spec("hone")
    if found is None or found.origin is None:
        raise SystemExit("hone is not installed in this environment, and not on PYTHONPATH")
    return Path(found.origin).parent


def hash_of_sources(folder: Path) -> str:
    """SHA-256 over the Python files of ``folder``: another engine is another measurement."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def key_of(**parts: Any) -> str:
    """The identity of a measurement: everything that could change its figures."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Store:
    """Results by key, appended to a JSONL file as they come.

    Args:
        folder: where ``results.jsonl``, logs, gradients and scratch folders lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "results.jsonl"
        self._found: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    result = json.loads(line)
                except ValueError:
                    continue  # the line that an interruption cut short; it is measured again
                self._found[result["key"]] = result

    def get(self, key: str) -> dict[str, Any] | None:
        """The figures under ``key``; None where it was never measured, or failed and is to be tried again."""
        result = self._found.get(key)
        return None if result is None or "error" in result else result

    def put(self, key: str, figures: dict[str, Any]) -> dict[str, Any]:
        """Keep ``figures``; they are on the disk when this returns."""
        result = {"key": key, **figures}
        self._found[key] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return result

    def gradients(self, key: str) -> Path:
        """File of the gradients of a gate run."""
        return self.folder / "gradients" / f"{key}.safetensors"


def run_process(command: list[str], log: Path, variables: dict[str, str], limit_seconds: float) -> str | None:
    """Run to the end with all output in ``log``; give None, or what went wrong in a line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=variables, timeout=limit_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not done after {limit_seconds:.0f} s"
    if done.returncode == 0:
        return None
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"exit code {done.returncode}: {' / '.join(lines[-_TAIL_LINES:])[-500:]}"


def run_tool(module: str, arguments: list[str], environments: Environments, log: Path) -> None:
    """Run a module of this package in hone's environment; a failure ends the benchmark."""
    command = [sys.executable, "-m", f"side_by_side.{module}", *arguments]
    if problem := run_process(command, log, environments.variables("own"), 3600):
        raise SystemExit(f"{module} failed: {problem}\nits output is in {log}")


def measure(
    store: Store, key: str, spec: Spec, system: System, environments: Environments, *, limit_seconds: float
) -> dict[str, Any]:
    """The figures of one measurement: those kept, or those of a process started now.

    Returns:
        What the worker wrote with ``others_share``; or ``error``.
    """
    if (kept := store.get(key)) is not None:
        return kept
    result, request = store.folder / "now.result.json", store.folder / "now.spec.json"
    result.unlink(missing_ok=True)
    if spec.gradients:
        store.gradients(key).parent.mkdir(exist_ok=True)
        store.gradients(key).unlink(missing_ok=True)
    log = store.folder / "logs" / f"{spec.system.replace('/', '-').replace(' ', '-')}-{key}.txt"
    python = environments.pythons[system.environment]
    variables = {**environments.variables(system.environment), **system.variables}
    others = Others()
    replace(spec, result=str(result), spawned_at=time.time()).write(request)
    problem = run_process([python, "-m", "side_by_side.worker", str(request)], log, variables, limit_seconds)
    share = others.share()
    if problem is not None:
        return store.put(key, {"system": spec.system, "error": problem})
    figures = json.loads(result.read_text(encoding="utf-8"))
    return store.put(key, {"system": spec.system, **figures, "others_share": share})
