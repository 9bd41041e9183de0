"""What is noted about the code that made a result."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hone
from hone.registry import describe_code, provenance

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *settings, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "data.jsonl").write_text("1")
    git(tmp_path, "add", "data.jsonl")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = describe_code()
    assert code["hone"] == hone.__version__
    assert code["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(code["libraries"]) >= {"torch", "transformers", "tokenizers"}
    assert code["git"]["working_folder"] is None
    json.dumps(code)


def test_a_library_that_is_missing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_LIBRARIES", ("pytest", "no-such-library"))
    assert describe_code()["libraries"] == {"pytest": pytest.__version__, "no-such-library": None}


@needs_git
def test_commit_and_changes_of_the_working_folder(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert describe_code()["git"]["working_folder"] == {"commit": commit, "dirty": False}
    (checkout / "data.jsonl").write_text("2")
    assert describe_code()["git"]["working_folder"] == {"commit": commit, "dirty": True}


@needs_git
def test_a_hone_installed_below_a_repository_is_not_of_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / ".venv" / "hone" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    monkeypatch.setattr(hone, "__file__", str(installed))
    assert describe_code()["git"]["hone"] is None
    git(checkout, "add", "-f", str(installed))
    git(checkout, "commit", "-q", "-m", "second")
    assert describe_code()["git"]["hone"] == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@needs_git
def test_a_repository_cannot_make_git_run_its_programs(checkout: Path) -> None:
    program = checkout / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {checkout / 'ran'}\n")
    program.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(program))
    describe_code()
    assert not (checkout / "ran").exists()


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_code()["git"] == {"hone": None, "working_folder": None}
