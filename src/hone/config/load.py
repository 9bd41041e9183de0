"""Config files: YAML in, merged with the command line, and the resolved options out again.

Paths in a file are relative to the working folder, as they are on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from hone.errors import ConfigError
from hone.files import write_atomically

__all__ = ["dump_resolved", "load_config"]

_Config = TypeVar("_Config", bound=BaseModel)
_FORM = "write one option a line, as `epochs: 3`; put text with : or # in quotes"


def load_config(
    config_class: type[_Config],
    options: Mapping[str, Any],
    *,
    file: str | os.PathLike[str] | None = None,
    command: str | None = None,
    words: Mapping[str, str] | None = None,
) -> _Config:
    """Options from a config file and the command line; the command line wins.

    Args:
        config_class: the config to make.
        options: the command line's values by option name (``max_steps``); None means not given.
        file: a YAML file of ``option: value`` lines.
        command: whose help a message names, where the config's own is not meant.
        words: what each option is called on the command line, as ``--max-steps``. What stands in the file is told of
            by its key.

    Raises:
        ConfigError: the file cannot be read or is no such file; or an option is unknown, given twice, missing or
            wrong. All problems of file and command line are in one error, those of the file with ``file:line``.
    """
    given = {name: value for name, value in options.items() if value is not None}
    content = _FileContent() if file is None else _read(Path(file))
    context = {
        "places": {name: place for name, place in content.places.items() if name not in given},
        "problems": content.problems,
        "where": None if file is None else str(file),
        "command": command,
        "words": {name: word for name, word in (words or {}).items() if file is None or name in given},
    }
    return config_class.model_validate({**content.values, **given}, context=context)


def dump_resolved(config: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write every option with its value as YAML that :func:`load_config` reads back to an equal config, atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    values = config.model_dump(mode="json", by_alias=True)
    write_atomically(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


@dataclass
class _FileContent:
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def _read(path: Path) -> _FileContent:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start})", where=str(path), remedy="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the name after --config"
        ) from error
    try:
        return _parse(text, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"is not YAML: {error.problem}", where=where, remedy=_FORM) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: PyYAML's own for a date such as 2026-13-01; RecursionError: thousands of nested brackets
        raise ConfigError(f"is not YAML that can be read: {error}", where=str(path), remedy=_FORM) from error


def _parse(text: str, path: Path) -> _FileContent:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return _FileContent()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError("holds no options", where=f"{path}:{node.start_mark.line + 1}", remedy=_FORM)
        content = _FileContent()
        for key, _ in node.value:
            content.places.setdefault(str(key.value), f"{path}:{key.start_mark.line + 1}")
        _find_duplicates(node, path, content.problems)  # before construction, which resolves `<<` in place
        content.values = {str(key): value for key, value in loader.construct_document(node).items()}
        return content
    finally:
        loader.dispose()


def _find_duplicates(root: yaml.Node, path: Path, problems: list[str]) -> None:
    """Add a problem for each key that a mapping has twice; YAML itself would let the last one win, silently."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            first_lines: dict[str, int] = {}
            for key, value in node.value:
                children.append(value)
                name, line = str(key.value), key.start_mark.line + 1
                if name in first_lines:
                    problems.append(f"{path}:{line}: {name} is given twice (first on line {first_lines[name]})")
                first_lines.setdefault(name, line)
        for child in children:
            if id(child) not in seen:  # an anchor may make a loop
                seen.add(id(child))
                waiting.append(child)
