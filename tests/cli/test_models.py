"""``hone models``: what is listed, what one version shows, and that damage is seen."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import FinishedRun, Hone


def test_none_yet(hone: Hone) -> None:
    ended = hone("models", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "hone run DATA" in ended.err
    assert hone("models", "list", "--json").json == {"schema": 1, "versions": [], "aliases": []}


@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_a_list_has_a_line_a_version(arguments: list[str], at_home: FinishedRun, hone: Hone) -> None:
    ended = hone(*arguments)
    heading, line = ended.out.splitlines()
    assert heading.split()[0] == "VERSION"
    arms = at_home.ended.json["evaluation"]["arms"]
    scores = f"{arms['base']['score']:.1f} -> {arms['tuned']['score']:.1f}"
    assert line.startswith("orders@1 ")
    assert scores in line
    assert line.endswith(at_home.ended.json["base"]["name"])


def test_one_version_shows_where_it_comes_from(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("models", "show", "orders@1")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    result = at_home.ended.json
    assert result["base"]["hash"][:16] in text
    assert "26 rows, 24 kept, 0 cut, 2 dropped" in text
    assert re.search(r"rank \d+, alpha", text)
    assert f"of {len(result['proof'])} invariants hold" in text
    assert result["run_dir"] in text
    assert re.search(r"all \d files of the adapter are as they were registered", text)


def test_its_object_is_for_programs(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("models", "show", Path(at_home.ended.json["run_dir"]), "--json")
    assert ended.code == 0
    shown = ended.json
    assert (shown["schema"], shown["version"]) == (1, "orders@1")
    assert shown["base"]["hash"] == at_home.ended.json["base"]["hash"]
    assert shown["evaluation"] == at_home.ended.json["evaluation"]
    assert shown["proof"] == at_home.ended.json["proof"]
    assert shown["adapter"]["problems"] == []
    assert "adapter_model.safetensors" in shown["adapter"]["files"]


def test_a_damaged_adapter_is_seen(
    finished_run: FinishedRun, tmp_path: Path, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished_run.home, home)
    monkeypatch.setenv("HONE_HOME", str(home))
    [weights] = home.glob("runs/*/adapter/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = hone("models", "show", "orders")
    assert ended.code == 1
    assert f"{weights}: differs from what was registered" in ended.out
    as_object = hone("models", "show", "orders", "--json")
    assert as_object.code == 1
    assert len(as_object.json["adapter"]["problems"]) == 1
    assert hone("generate", "orders", "hi").code == 1
