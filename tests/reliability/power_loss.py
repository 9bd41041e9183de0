"""What a disk may hold after the power went out, by the strict reading of POSIX: only what was synced is sure to stay.

A file's bytes last once the file was synced, and its name once its folder was. What was not synced may be there or not,
folder by folder; all combinations are tried. Method: Pillai et al. 2014, "All File Systems Are Not Created Equal".
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.file_calls import Call, FileCalls


@dataclass(eq=False)
class _File:
    lasting: bytes = b""  # of a file that was never synced, the name alone can be found


@dataclass(eq=False)
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    lasting: dict[str, _File | _Folder] = field(default_factory=dict)


Tree = Mapping[str, bytes | None]
"""Paths below the root: the bytes of a file, None for a folder."""


class PowerLoss:
    """Follows the calls below ``root`` and tells what could be left of it if the power went out now."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = self._read(root)

    def _read(self, path: Path) -> _Folder:
        entries: dict[str, _File | _Folder] = {
            entry.name: self._read(entry) if entry.is_dir() else _File(entry.read_bytes()) for entry in path.iterdir()
        }
        return _Folder(dict(entries), dict(entries))

    def observe(self, call: Call) -> None:
        """Take one call that was made."""
        if call.name == "create":
            self._parent(call.path).now[call.path.name] = _File()
        elif call.name == "mkdir":
            self._parent(call.path).now[call.path.name] = _Folder()
        elif call.name in ("unlink", "rmdir"):
            del self._parent(call.path).now[call.path.name]
        elif call.name == "rename":
            assert call.target is not None
            self._parent(call.target).now[call.target.name] = self._parent(call.path).now.pop(call.path.name)
        elif call.name == "fsync":
            node = self._top if call.path == self._root else self._parent(call.path).now[call.path.name]
            if isinstance(node, _Folder):
                node.lasting = dict(node.now)
            else:
                node.lasting = call.path.read_bytes()

    def _parent(self, path: Path) -> _Folder:
        node: _File | _Folder = self._top
        for name in path.relative_to(self._root).parts[:-1]:
            assert isinstance(node, _Folder)
            node = node.now[name]
        assert isinstance(node, _Folder)
        return node

    def left(self) -> Iterator[Tree]:
        """Every state that the disk may be in."""
        open_questions = [folder for folder in self._folders() if folder.now != folder.lasting]
        for answers in itertools.product((True, False), repeat=len(open_questions)):
            lost = {id(folder) for folder, is_lost in zip(open_questions, answers, strict=True) if is_lost}
            yield dict(_entries(self._top, lost, ""))

    def _folders(self) -> list[_Folder]:
        found: list[_Folder] = []
        waiting = [self._top]
        while waiting:
            folder = waiting.pop()
            found.append(folder)
            below = {id(node): node for node in (*folder.now.values(), *folder.lasting.values())}
            waiting += [node for node in below.values() if isinstance(node, _Folder) and node not in found]
        return found


def _entries(folder: _Folder, lost: set[int], above: str) -> Iterator[tuple[str, bytes | None]]:
    for name, node in (folder.lasting if id(folder) in lost else folder.now).items():
        path = f"{above}{name}"
        if isinstance(node, _File):
            yield path, node.lasting
        else:
            yield path, None
            yield from _entries(node, lost, f"{path}/")


def every_power_loss(
    before: Path, work: Callable[[Path], object], check: Callable[[Path, bool], None], *, scratch: Path
) -> int:
    """Cut the power after each call of ``work``; the number of different states that the disk could be in.

    Args:
        before: a folder as it was before, all of it on the disk.
        work: what is tried, on a copy of it.
        check: looks at what is left (is_done: whether ``work`` had returned), and asserts.
        scratch: where the copies are made.
    """
    folder = Path(shutil.copytree(before, scratch / "copy"))
    power = PowerLoss(folder)
    states: dict[tuple[tuple[str, bytes | None], ...], bool] = {}

    def after(call: Call) -> None:
        power.observe(call)
        for tree in power.left():
            states.setdefault(tuple(sorted(tree.items())), False)

    with FileCalls([folder], observe=after):
        work(folder)
    for tree in power.left():
        states[tuple(sorted(tree.items()))] = True
    shutil.rmtree(folder)
    for state, is_done in states.items():
        folder.mkdir()
        for name, content in state:
            if content is None:
                (folder / name).mkdir(parents=True, exist_ok=True)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        with FileCalls([folder]):  # which spares the disk the syncs of what is thrown away
            check(folder, is_done)
        shutil.rmtree(folder)
    return len(states)
