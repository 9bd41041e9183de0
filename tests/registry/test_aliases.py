"""Aliases: moved with their history, taken back place by place, and followed by a number that only grows."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from hone.errors import StorageError, VersionError
from hone.registry import (
    alias_generation,
    find_alias,
    history_of_alias,
    list_aliases,
    move_alias,
    remove_version,
    resolve_alias,
    resolve_version,
    revert_alias,
    revert_places,
    set_alias,
)
from tests.registry.test_versions import register, trained_run


def three_versions(home: Path) -> None:
    for number in range(3):
        register(home, trained_run(home, weights=str(number).encode()))


def test_reverting_goes_back_place_by_place_and_ends_on_the_base(hone_home: Path) -> None:
    three_versions(hone_home)
    for number in (1, 3, 2):
        set_alias(hone_home, "support", "production", number)
    assert revert_places(hone_home, "support", "production") == [3, 1, None]
    assert revert_alias(hone_home, "support", "production", to=3).reference == "support@3"
    # a promotion lays its place on top of those that are left
    set_alias(hone_home, "support", "production", 2)
    assert revert_places(hone_home, "support", "production") == [3, 1, None]
    assert revert_alias(hone_home, "support", "production", to=1, reason="both are wrong").reference == "support@1"
    on_base = revert_alias(hone_home, "support", "production", to=None)
    assert (on_base.number, on_base.reference, on_base.base_hash) == (None, "smollm2-135m-instruct", "b" * 64)
    assert revert_places(hone_home, "support", "production") == []
    told = [(one.action, one.number, one.reason) for one in history_of_alias(hone_home, "support", "production")]
    assert told == [
        ("promote", 1, None), ("promote", 3, None), ("promote", 2, None), ("revert", 3, None), ("promote", 2, None),
        ("revert", 1, "both are wrong"), ("revert", None, None),
    ]  # fmt: skip


def test_an_alias_on_the_base_is_no_version(hone_home: Path) -> None:
    three_versions(hone_home)
    set_alias(hone_home, "support", "production", 1)
    revert_alias(hone_home, "support", "production", to=None)
    with pytest.raises(VersionError, match="stands on the base smollm2-135m-instruct"):
        resolve_version(hone_home, "support@production")
    with pytest.raises(VersionError, match="cannot be reverted to the base"):
        revert_alias(hone_home, "support", "production", to=None)
    found = find_alias(hone_home, "support@production")
    assert found is not None
    assert found.number is None
    assert find_alias(hone_home, "support") is None
    assert find_alias(hone_home, "support@2") is None


def test_a_place_that_it_never_stood_in_is_refused(hone_home: Path) -> None:
    three_versions(hone_home)
    set_alias(hone_home, "support", "production", 1)
    with pytest.raises(VersionError, match="cannot be reverted to support@2"):
        revert_alias(hone_home, "support", "production", to=2)
    with pytest.raises(VersionError, match="there is no version 'support@staging'"):
        revert_alias(hone_home, "support", "staging", to=1)
    with pytest.raises(VersionError, match="there is no version 'other@staging'"):
        resolve_alias(hone_home, "other", "staging")


def test_removed_places_are_passed_over(hone_home: Path) -> None:
    three_versions(hone_home)
    for number in (1, 2, 3):
        set_alias(hone_home, "support", "production", number)
    remove_version(hone_home, resolve_version(hone_home, "support@1"))
    assert revert_places(hone_home, "support", "production") == [2, None]
    with pytest.raises(VersionError, match="is in use") as caught:
        remove_version(hone_home, resolve_version(hone_home, "support@2"))
    assert caught.value.details == ("reverting support@production leads to it",)


def test_a_move_that_was_decided_on_another_place_is_refused(hone_home: Path) -> None:
    three_versions(hone_home)
    seen = move_alias(hone_home, "support", "production", 1, seen=0).generation
    move_alias(hone_home, "support", "production", 2, seen=seen)
    with pytest.raises(StorageError, match="moved by somebody else"):
        move_alias(hone_home, "support", "production", 3, seen=seen)
    with pytest.raises(StorageError, match="moved by somebody else"):
        revert_alias(hone_home, "support", "production", to=1, seen=seen)
    assert resolve_alias(hone_home, "support", "production").number == 2


def test_the_generation_grows_with_whatever_a_name_may_mean(hone_home: Path) -> None:
    numbers = [alias_generation(hone_home)]
    register(hone_home, trained_run(hone_home))
    numbers.append(alias_generation(hone_home))
    register(hone_home, trained_run(hone_home, weights=b"other"))
    numbers.append(alias_generation(hone_home))
    set_alias(hone_home, "support", "production", 2)
    numbers.append(alias_generation(hone_home))
    revert_alias(hone_home, "support", "production", to=None)
    numbers.append(alias_generation(hone_home))
    remove_version(hone_home, resolve_version(hone_home, "support@1"))
    numbers.append(alias_generation(hone_home))
    assert numbers == [0, 1, 2, 3, 4, 5]
    list_aliases(hone_home)
    assert alias_generation(hone_home) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts many processes")
def test_of_many_that_move_at_once_one_wins_each_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    three_versions(home)
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()

    def work(number: int) -> None:
        barrier.wait(60)
        try:
            move_alias(home, "support", "production", number, seen=0)
        except StorageError:
            answers.put(None)
        else:
            answers.put(number)

    processes = [context.Process(target=work, args=(1 + place % 3,)) for place in range(8)]
    for process in processes:
        process.start()
    won = [answer for _ in processes if (answer := answers.get(timeout=120)) is not None]
    for process in processes:
        process.join()
    assert len(won) == 1
    assert resolve_alias(home, "support", "production").number == won[0]
    assert [one.number for one in history_of_alias(home, "support", "production")] == won
