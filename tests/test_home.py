"""The home folder: what the user chose, else the platform's place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hone.home import hone_home as find_home


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "/users/ada/.local/share/hone"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/hone"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/users/ada/.local/share/hone"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "/users/ada/Library/Application Support/hone"),
        ("win32", {}, "/users/ada/AppData/Local/hone"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/hone"),
        ("linux", {"HONE_HOME": ""}, "/users/ada/.local/share/hone"),
        ("linux", {"HONE_HOME": "/chosen", "XDG_DATA_HOME": "/data"}, "/chosen"),
        ("darwin", {"HONE_HOME": "~/chosen"}, "/users/ada/chosen"),
    ],
)
def test_home(monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str) -> None:
    for name in ("HONE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/users/ada", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert find_home() == Path(expected)


def test_a_relative_choice_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HONE_HOME", "here")
    assert find_home() == tmp_path / "here"
    assert not (tmp_path / "here").exists()
