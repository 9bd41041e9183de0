"""The registry against a model of plain values, with a kill before or after any step of any operation.

After a kill the registry is as if the operation had been made whole, or not at all; files that are then not referred to
are what ``collect_garbage`` takes away, and nothing else.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hone.errors import VersionError
from hone.registry import (
    RunFolder,
    collect_garbage,
    create_run,
    list_versions,
    move_alias,
    register_version,
    remove_version,
    resolve_version,
    revert_alias,
)
from hone.registry import store as store_module
from hone.registry.store import open_store
from tests.registry.model import Model, check
from tests.registry.steps import Steps, counted
from tests.registry.test_versions import add_adapter

ALIASES = st.sampled_from(["production", "staging"])
KILLS = st.none() | st.tuples(st.integers(1, 40), st.booleans())


@pytest.fixture(autouse=True)
def spare_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, so that SQLite need not wait for the disk."""
    plain = store_module._enforce_foreign_keys

    def connected(connection: sqlite3.Connection, record: object) -> None:
        plain(connection, record)
        connection.execute("PRAGMA synchronous = OFF")

    monkeypatch.setattr(store_module, "_enforce_foreign_keys", connected)


class Registry(RuleBasedStateMachine):
    """Every operation may be killed at one of its steps."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="hone-registry-"))
        open_store(self.home)
        self.model = Model()

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)

    def do(self, kill: tuple[int, bool] | None, work: Callable[[], object], change: Callable[[Model], None]) -> bool:
        """Do it with a kill, which may lie beyond its end; the model follows where the registry did."""
        steps = Steps(None) if kill is None else Steps(kill[0], after=kill[1])
        with counted(self.home, steps):
            work()
        after = self.model.copy()
        change(after)
        if not steps.dead:
            self.model = after
            return False
        try:
            check(self.home, after)
        except AssertionError:
            check(self.home, self.model)
        else:
            self.model = after
        return True

    def run(self) -> RunFolder:
        run = create_run(self.home, kind="run", name="v")
        add_adapter(run, str(len(self.model.versions)).encode())
        run.finish({})
        return run

    @rule(kill=KILLS, data=st.data())
    def register(self, kill: tuple[int, bool] | None, data: st.DataObject) -> None:
        parent = data.draw(st.none() | st.sampled_from(self.model.live)) if self.model.live else None
        lineage = None if parent is None else {"parent": f"v@{parent}"}
        run = self.run()

        def work() -> None:
            register_version(
                self.home, name="v", run=run, base_name="b", base_hash="h", template_hash="t", data_manifest={},
                lineage=lineage,
            )  # fmt: skip

        self.do(kill, work, lambda model: model.register(parent))

    @precondition(lambda self: self.model.live)
    @rule(kill=KILLS, alias=ALIASES, data=st.data())
    def promote(self, kill: tuple[int, bool] | None, alias: str, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.model.live))
        self.do(kill, lambda: move_alias(self.home, "v", alias, number), lambda model: model.promote(alias, number))

    @precondition(lambda self: any(map(self.model.places, self.model.moves)))
    @rule(kill=KILLS, data=st.data())
    def revert(self, kill: tuple[int, bool] | None, data: st.DataObject) -> None:
        alias = data.draw(st.sampled_from([one for one in self.model.moves if self.model.places(one)]))
        place = data.draw(st.sampled_from(self.model.places(alias)))
        self.do(kill, lambda: revert_alias(self.home, "v", alias, to=place), lambda model: model.revert(alias, place))

    @precondition(lambda self: self.model.live)
    @rule(kill=KILLS, data=st.data())
    def remove(self, kill: tuple[int, bool] | None, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.model.live))
        version = resolve_version(self.home, f"v@{number}")
        if self.model.is_used(number):
            with pytest.raises(VersionError, match="is in use"):
                remove_version(self.home, version)
            return
        self.do(kill, lambda: remove_version(self.home, version), lambda model: model.remove(number))

    @rule(kill=KILLS)
    def begin_a_run_that_comes_to_nothing(self, kill: tuple[int, bool] | None) -> None:
        self.do(kill, lambda: create_run(self.home, kind="run", name="v"), lambda model: None)

    @rule(kill=KILLS)
    def collect(self, kill: tuple[int, bool] | None) -> None:
        self.do(kill, lambda: collect_garbage(self.home, least_age_seconds=-1), lambda model: None)

    @rule()
    def only_what_is_referred_to_is_left_after_collecting(self) -> None:
        collect_garbage(self.home, least_age_seconds=-1)  # lists again what is not listed
        collect_garbage(self.home, least_age_seconds=-1)
        assert collect_garbage(self.home, dry_run=True, least_age_seconds=-1) == []
        folders = set((self.home / "runs").glob("*")) if (self.home / "runs").exists() else set()
        made = {one.run_folder for one in list_versions(self.home)}
        assert made <= folders
        rest = {path for path in folders - made if RunFolder.open(path).status != "done"}
        assert rest == set()

    @invariant()
    def the_registry_is_as_the_model(self) -> None:
        if hasattr(self, "home"):
            check(self.home, self.model)


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(
    max_examples=5, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.slow
def test_every_step_of_every_operation_can_be_the_last(tmp_path: Path) -> None:
    """Each operation is killed before each of its steps, that is, after the one before; nothing is left to chance."""
    prepared = _prepared()
    killed = {}
    for operation in ("register", "promote", "revert", "remove", "create", "collect"):
        killed[operation] = 0
        while True:
            machine = Registry()
            machine.home, machine.model = tmp_path / f"{operation}-{killed[operation]}", prepared.model.copy()
            shutil.copytree(prepared.home, machine.home)
            reached = _one(machine, operation, (killed[operation] + 1, False))
            machine.only_what_is_referred_to_is_left_after_collecting()
            machine.the_registry_is_as_the_model()
            machine.teardown()
            if not reached:
                break
            killed[operation] += 1
    prepared.teardown()
    assert all(count >= 5 for count in killed.values()), killed
    assert sum(killed.values()) > 60


def _prepared() -> Registry:
    """Two versions with an alias on the second, one that nothing refers to, and a run that came to nothing."""
    machine = Registry()
    machine.begin()
    for parent in (None, 1, 1):
        run = machine.run()
        lineage = None if parent is None else {"parent": f"v@{parent}"}
        register_version(
            machine.home, name="v", run=run, base_name="b", base_hash="h", template_hash="t", data_manifest={},
            lineage=lineage,
        )  # fmt: skip
        machine.model.register(parent)
    for number in (1, 2):
        move_alias(machine.home, "v", "production", number)
        machine.model.promote("production", number)
    create_run(machine.home, kind="run", name="v")
    return machine


def _one(machine: Registry, operation: str, kill: tuple[int, bool]) -> bool:
    """Do one operation with a kill; whether the kill was reached."""
    home = machine.home
    run = machine.run() if operation == "register" else None
    works: dict[str, tuple[Callable[[], object], Callable[[Model], None]]] = {
        "register": (
            lambda: register_version(
                home, name="v", run=run, base_name="b", base_hash="h", template_hash="t", data_manifest={}
            ),
            lambda model: model.register(None),
        ),
        "promote": (
            lambda: move_alias(home, "v", "production", 3),
            lambda model: model.promote("production", 3),
        ),
        "revert": (
            lambda: revert_alias(home, "v", "production", to=1),
            lambda model: model.revert("production", 1),
        ),
        "remove": (lambda: remove_version(home, resolve_version(home, "v@3")), lambda model: model.remove(3)),
        "create": (lambda: create_run(home, kind="run", name="v"), lambda model: None),
        "collect": (lambda: collect_garbage(home, least_age_seconds=-1), lambda model: None),
    }
    return machine.do(kill, *works[operation])
