"""A folder of files with a manifest of their sums: any change of any file, the manifest included, is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hone.errors import StorageError
from hone.files import sha256_file, write_atomically

__all__ = ["MANIFEST_NAME", "problems_of_seal", "read_seal", "seal_folder"]

MANIFEST_NAME = "manifest.json"
_READERS = 4  # files are hashed side by side; hashing frees the interpreter's lock


def seal_folder(folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write the manifest: ``facts``, every file with its size and sha256, and the sha256 of all that.

    Args:
        folder: holds plain files only; nothing may be added afterwards.
        facts: what else to keep, as JSON; not named ``files`` or ``seal``.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_NAME
    }
    content = {**facts, "files": files}
    write_atomically(folder / MANIFEST_NAME, _render({**content, "seal": _seal_of(content)}))


def read_seal(folder: Path) -> dict[str, Any]:
    """The manifest's content.

    Raises:
        StorageError: it is missing or not what was written.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except ValueError as error:
        raise StorageError(f"is damaged: {error}", where=str(path)) from error
    content = {key: item for key, item in value.items() if key != "seal"} if isinstance(value, dict) else {}
    if not isinstance(content.get("files"), dict) or value.get("seal") != _seal_of(content) or _render(value) != text:
        raise StorageError("is damaged: it does not match its own sum", where=str(path))
    return content


def problems_of_seal(folder: Path, *, additions: bool = True) -> list[str]:
    """What differs from the manifest, one phrase for each file; empty where all is as it was sealed.

    All files are read whole. Names that begin with a dot are not looked at: file managers leave them behind.

    Args:
        folder: has a manifest.
        additions: whether a file that was added is a problem.
    """
    try:
        files: dict[str, dict[str, Any]] = read_seal(folder)["files"]
    except StorageError as error:
        return [f"{MANIFEST_NAME} {error.what}"]
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    strangers = sorted(present - files.keys() - {MANIFEST_NAME})
    problems = [f"{name} was added" for name in strangers if additions]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: _problem_of(folder / name, files[name]), sorted(files))
        problems += [problem for problem in found if problem]
    return problems


def _problem_of(path: Path, expected: Mapping[str, Any]) -> str:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path.name} has {size} bytes instead of {expected['bytes']}"
        return "" if sha256_file(path) == expected["sha256"] else f"the content of {path.name} has changed"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, StorageError) as error:
        return f"{path.name} cannot be read ({type(error).__name__})"


def _seal_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_render(content).encode("utf-8")).hexdigest()


def _render(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n"
