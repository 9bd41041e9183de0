"""``hone doctor``: the machine in words, the same as an object, and a line for each thing to mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.model.machine import describe_machine
from tests.cli.conftest import Hone


def test_it_says_what_there_is(hone: Hone, hone_home: Path) -> None:
    ended = hone("doctor")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    machine = describe_machine()
    assert f"torch {machine['packages'][1]['version']}" in text
    assert f"{machine['chosen']['device']} with {machine['chosen']['dtype']}" in text
    assert str(hone_home) in text


def test_it_says_the_same_to_programs(hone: Hone) -> None:
    shown = hone("doctor", "--json").json
    assert shown["schema"] == 1
    assert shown["chosen"] == describe_machine()["chosen"]


def test_each_problem_is_a_line(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {**describe_machine(), "problems": ["the first thing: mend it", "the second thing: mend it"]}
    monkeypatch.setattr("hone.model.machine.describe_machine", lambda _home: machine)
    ended = hone("doctor")
    assert "Mend        the first thing: mend it" in ended.out
    assert "            the second thing: mend it" in ended.out
    assert "Nothing is missing" not in ended.out
