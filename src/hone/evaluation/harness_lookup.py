"""Tasks of lm-evaluation-harness by their names, and the harness's failures in hone's words."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from hone.errors import ConfigError, DataError, HoneError, MissingDependencyError

__all__ = ["failing_clearly", "find_tasks", "is_path", "require_harness", "silence"]


_INDEX = "reading lm-evaluation-harness's index of some 14,000 files, as groups and tags ask for: one to three minutes"


def require_harness() -> None:
    """Say how the harness is installed where it is not.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
    """
    try:
        importlib.import_module("lm_eval")
    except ImportError as error:
        raise MissingDependencyError(
            "tasks of lm-evaluation-harness need the package lm-eval",
            where="--lm-eval",
            remedy="pip install 'hone-llm[lm-eval]'",
        ) from error


def find_tasks(names: Sequence[str], *, say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The harness's tasks under each name, with their data.

    Args:
        names: of tasks, groups or tags of the harness; or paths of a task's YAML file or of a folder of such files.
        say: takes a sentence on what is about to be done, where it takes long.

    Raises:
        ConfigError: there is no such task.
        DataError: a task's data cannot be fetched, or it is no task.
        MissingDependencyError: a package that a task needs is not installed.
    """
    files = _files_of_tasks([name for name in names if not is_path(name)])
    found = []
    for name in names:
        indexed = name not in files and not is_path(name)
        say(f"{name}: {_INDEX if indexed else 'opening the task and its data'}")
        found.append(failing_clearly(name, partial(_found, name, files)))
    return found


def is_path(name: str) -> bool:
    """Whether a name is the path of a YAML file or a folder.

    Args:
        name: as given to ``--lm-eval``.
    """
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


def _files_of_tasks(names: Sequence[str]) -> dict[str, Path]:
    """The harness's file of each task whose name stands in one file; its own index reads 14,000 files as YAML."""
    if not names:
        return {}
    import lm_eval.tasks

    named = re.compile(r"^(task|group): *(['\"]?)(" + "|".join(map(re.escape, names)) + r")\2 *$", re.MULTILINE)
    found: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
        for kind, _, name in named.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, []).append((kind, path))
    return {name: places[0][1] for name, places in found.items() if [kind for kind, _ in places] == ["task"]}


def _found(name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """The harness's tasks under a name, each with its data."""
    from lm_eval.tasks import TaskManager

    path = files.get(name) or (Path(name).expanduser() if is_path(name) else None)
    if path is None:
        manager = TaskManager()
        if name not in manager.all_tasks:
            raise ConfigError(
                f"lm-evaluation-harness has no task {name!r}",
                where="--lm-eval",
                remedy="`lm-eval ls tasks` lists them; a task of your own is named by the path of its YAML file",
            )
        found = manager.load([name])
    elif path.is_dir():
        manager = TaskManager(include_path=str(path), include_defaults=False)
        if not manager.all_subtasks:
            raise ConfigError("no YAML file in it describes a task", where=name, remedy="name the file of a task")
        found = manager.load(manager.all_subtasks)
    elif path.is_file():
        found = TaskManager(include_defaults=False).load([str(path)])
    else:
        raise ConfigError("there is no such file or folder", where=name, remedy="check the path given to --lm-eval")
    return dict(found["tasks"])


def failing_clearly(name: str, act: Callable[[], Any]) -> Any:
    """What ``act`` gives; what fails inside of the harness or of a task's own code is told in hone's words.

    Args:
        name: of the task, for the message.
        act: calls the harness.

    Raises:
        DataError: it failed.
        MissingDependencyError: a package that the task needs is not installed.
    """
    try:
        with silence():
            return act()
    except HoneError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"the task needs a package that is not installed: {_first_line(error)}",
            where=name,
            remedy="install it, as the task's page in lm-evaluation-harness says",
        ) from error
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"the task's data cannot be fetched: {_first_line(error)}",
            where=name,
            remedy="run it once with a network, or name a YAML file whose data_files are on this machine",
        ) from error
    except Exception as error:
        raise DataError(
            f"lm-evaluation-harness cannot ask it: {type(error).__name__}: {_first_line(error)}",
            where=name,
            remedy="mend the task, or leave it out of --lm-eval",
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def silence() -> Iterator[None]:
    """The harness draws bars and prints, also where standard output is for one JSON object."""
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        yield
