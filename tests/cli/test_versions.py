"""``hone models`` beyond looking: an alias through its gate and back, named everywhere; what goes and what stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hone.registry import create_run, register_version, resolve_version
from tests.cli.conftest import FinishedRun, Hone


@pytest.fixture
def home(finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's home, in force."""
    copy = Path(shutil.copytree(finished_run.home, tmp_path / "home"))
    monkeypatch.setenv("HONE_HOME", str(copy))
    return copy


def promoted(hone: Hone) -> None:
    ended = hone("models", "promote", "orders@1", "production", "--force", "--reason", "to try it")
    assert ended.code == 0, ended.err


def test_a_refusal_ends_with_one_and_names_the_figure(home: Path, hone: Hone) -> None:
    ended = hone("models", "promote", "orders@1", "production")
    assert ended.code == 1
    assert "orders@1 is not promoted to production: proof" in ended.err
    assert "12. the model ends its answers" in ended.err
    assert hone("models", "list", "--json").json["aliases"] == []
    assert hone("models", "promote", "orders@1", "production", "--force").code == 2
    assert hone("models", "promote", "orders@1", "7", "--force", "--reason", "x").code == 2


def test_an_alias_is_named_everywhere(home: Path, hone: Hone) -> None:
    promoted(hone)
    listed = hone("models", "list")
    assert listed.out.splitlines()[1].split()[:2] == ["orders@1", "production"]
    assert hone("models", "show", "orders@production", "--json").json["aliases"] == ["production"]
    small = ["--device", "cpu", "--max-new-tokens", "4"]
    assert hone("generate", "orders@production", "hi", *small).code == 0
    assert hone("evaluate", "orders@production", *small, "--json").json["version"] == "orders@1"
    assert hone("proof", "orders@production", "--device", "cpu", "--json").json["name"] == "orders@1"


def test_back_to_the_base_and_the_history_of_it(home: Path, hone: Hone) -> None:
    promoted(hone)
    back = hone("models", "revert", "orders@production", "--reason", "no better", "--json")
    assert back.code == 0
    base = back.json["now"]
    assert back.json["was"] == "orders@1"
    assert base in hone("models", "list").out.splitlines()[2]
    assert hone("generate", "orders@production", "hi", "--device", "cpu", "--max-new-tokens", "4").code == 0
    assert hone("models", "revert", "orders@production").code == 2
    tree = hone("models", "show", "orders@1", "--tree")
    assert "[orders@production]" in tree.out.splitlines()[0]
    text = " ".join(tree.out.split())
    assert f"reverted to the base {base} (no better)" in text
    assert "promoted to orders@1, forced past proof (to try it)" in text
    histories = hone("models", "show", "orders@1", "--tree", "--json").json["histories"]["production"]
    assert [(move["action"], move["number"], move["forced"]) for move in histories] == [
        ("promote", 1, True), ("revert", None, False),
    ]  # fmt: skip


def second(home: Path) -> None:
    """The same adapter as the next version, of a run that was not compared."""
    version = resolve_version(home, "orders@1")
    run = create_run(home, kind="run", name="orders")
    shutil.copytree(version.adapter, run.adapter)
    run.finish({})
    register_version(
        home, name="orders", run=run, base_name=version.base_name, base_hash=version.base_hash,
        template_hash=version.template_hash, data_manifest=version.data_manifest,
    )  # fmt: skip


def test_removing_says_what_it_frees_or_why_not(home: Path, hone: Hone) -> None:
    second(home)
    promoted(hone)
    refused = hone("models", "remove", "orders@production")
    assert refused.code == 2
    assert "orders@production stands on it" in refused.err
    gone = hone("models", "remove", "orders@2", "--json").json
    assert (gone["version"], gone["files_removed"]) == ("orders@2", True)
    assert not Path(gone["folder"]).exists()
    assert hone("models", "show", "orders@2").code == 2
    assert "removed" in hone("models", "show", "orders@1", "--tree").out


def test_nothing_is_taken_away_without_need(home: Path, hone: Hone) -> None:
    assert "Nothing to take away" in hone("models", "gc").out
    left = home / "runs" / ".gone.0123456789ab.tmp"
    left.mkdir()
    planned = hone("models", "gc", "--dry-run", "--json").json
    assert [(one["kind"], one["path"]) for one in planned["items"]] == [("temporary", str(left))]
    assert left.exists()
    assert "are free again" in hone("models", "gc").out
    assert not left.exists()


def test_a_difference_is_printed_and_told_to_programs(home: Path, hone: Hone) -> None:
    second(home)
    ended = hone("models", "diff", "orders@1", "orders@2")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    assert "24 -> 24 rows: 0 added, 0 removed, 0 changed, 24 the same" in text
    assert "orders@2 was not compared" in text
    assert "no answers are stored of orders@2" in text
    assert hone("models", "diff", "orders@1", "orders@2", "--json").json["config"] is None
    same = hone("models", "diff", "orders@1", "orders@1", "--json").json
    assert same["config"] == {}
    assert same["answers"]["comparison"]["same_words"] == same["answers"]["rows"] == 8


def test_continuing_prints_what_the_update_did(home: Path, finished_run: FinishedRun, hone: Hone) -> None:
    new = home / "new.jsonl"
    lines = finished_run.rows.read_text(encoding="utf-8").splitlines()[:10]
    new.write_text("".join(line.replace("order", "parcel") + "\n" for line in lines), encoding="utf-8")
    ended = hone(
        "models", "continue", "orders@1", new, "--replay", "6", "--max-steps", "2", "--max-new-tokens", "4", "--device",
        "cpu",
    )  # fmt: skip
    assert ended.code in (0, 3), ended.err
    text = " ".join(ended.out.split())
    assert "6 of 16 old rows replayed (38%)" in text
    assert "Old rows" in text
    shown = " ".join(hone("models", "show", "orders@2").out.split())
    assert "continued from orders@1 with" in shown
    assert "6 of 16 old ones replayed (38%)" in shown
    assert hone("models", "continue", "orders@1").code == 2
