"""A kill at any step of the registry: before or after any statement on the database, or any call on its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hone.registry.store import Store
from tests.reliability.file_calls import FileCalls, Killed

_DATABASE = ("hone.db", "hone.db-wal", "hone.db-shm")


class Steps:
    """Counts statements and file calls together, and kills at the one of a number; nothing has an effect after it.

    Args:
        kill_at: number of the step, from 1; None only counts.
        after: whether the step is made before the kill.
    """

    def __init__(self, kill_at: int | None, *, after: bool = False) -> None:
        self.count = 0
        self.dead = False
        self._kill_at = kill_at
        self._after = after

    def make(self, do: Callable[[], Any]) -> Any:
        """Count a step and make it, unless the process is gone."""
        if self.dead:
            raise Killed
        self.count += 1
        if self.count == self._kill_at and not self._after:
            self.dead = True
            raise Killed
        result = do()
        if self.count == self._kill_at:
            self.dead = True
            raise Killed
        return result


class _CountedFiles(FileCalls):
    """File calls that are steps; the database's own are SQLite's, whose statements are counted instead."""

    def __init__(self, home: Path, steps: Steps) -> None:
        super().__init__([home])
        self._steps = steps

    def perform(self, name: str, path: str, do: Callable[[], Any], **given: Any) -> Any:
        if Path(path).name in _DATABASE:
            return do()
        self.dead = self._steps.dead
        return self._steps.make(lambda: FileCalls.perform(self, name, path, do, **given))


@contextmanager
def counted(home: Path, steps: Steps) -> Iterator[None]:
    """Every statement and file call of the block is a step."""
    plain = Store._transaction

    @contextmanager
    def transaction(store: Store, begin: str) -> Iterator[Any]:
        with plain(store, begin) as connection:
            yield _Counted(connection, steps)
            # the commit is a statement of its own: killed before it, nothing of the transaction is there
            steps.make(lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_transaction", transaction)
        with _CountedFiles(home, steps), suppress(Killed):
            yield


class _Counted:
    """A connection whose statements are steps."""

    def __init__(self, connection: Any, steps: Steps) -> None:
        self._connection = connection
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in ("execute", "exec_driver_sql"):
            return found
        return lambda *given, **named: self._steps.make(lambda: found(*given, **named))
