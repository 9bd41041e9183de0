"""Which code made a result: versions of hone and its libraries, the platform, and the state of git."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import hone
from hone.types import JsonDict

__all__ = ["describe_code"]

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_GIT_TIMEOUT_SECONDS = 5.0


def describe_code() -> JsonDict:
    """What is needed to repeat a run besides its config and data; no library is imported for it.

    Returns:
        ``hone``, ``python``, ``platform``, ``libraries`` {name: version, or None where it is not installed}, and
        ``git`` {``hone``, ``working_folder``}: each {``commit``, ``dirty``}, or None where git does not keep it.
    """
    return {
        "hone": hone.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _installed_version(name) for name in _LIBRARIES},
        "git": {
            "hone": _git_state(Path(hone.__file__).parent, tracked="__init__.py"),
            "working_folder": _git_state(Path.cwd()),
        },
    }


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path, *, tracked: str | None = None) -> JsonDict | None:
    """Commit and state of ``folder``; with ``tracked``, only where git keeps that file.

    A hone that pip installed below somebody's repository is ignored there, and that repository says nothing about it.
    """
    if tracked is not None and _git(folder, "ls-files", "--error-unmatch", tracked) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it is missing, fails or takes too long."""
    git = shutil.which("git")
    if git is None:
        return None
    # A repository's own settings may name a program for git to run; core.fsmonitor is the one that status obeys.
    command = [git, "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_GIT_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
