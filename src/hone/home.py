"""Where hone keeps its registry, its run folders and its converted models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["hone_home"]


def hone_home() -> Path:
    r"""The home folder as an absolute path; it is not made here.

    ``$HONE_HOME`` where that is set, else the platform's data folder: ``$XDG_DATA_HOME/hone`` or
    ``~/.local/share/hone``, ``~/Library/Application Support/hone`` on macOS, ``%LOCALAPPDATA%\hone`` on Windows.

    Source: XDG Base Directory Specification, which has a relative ``$XDG_DATA_HOME`` ignored.
    """
    chosen = os.environ.get("HONE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return _platform_data_folder() / "hone"


def _platform_data_folder() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        folder = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        data = os.environ.get("XDG_DATA_HOME")
        folder = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    return folder
