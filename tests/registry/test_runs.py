"""Run folders: their ids, their states, and what may not be trained into."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from hone.errors import ConfigError, StorageError, TrainingError, VersionError
from hone.registry import RunFolder, create_run
from hone.registry.store import open_store, runs


def row(home: Path, run: RunFolder) -> dict[str, object]:
    with open_store(home).read() as connection:
        return dict(connection.execute(select(runs).where(runs.c.id == run.id)).one()._mapping)


def test_a_new_run_has_a_sortable_readable_id_and_a_row(hone_home: Path) -> None:
    run = create_run(hone_home, kind="run", name="support")
    assert re.fullmatch(r"\d{8}-\d{6}-support-[0-9a-f]{4}", run.id)
    assert run.path == hone_home / "runs" / run.id
    assert run.path.is_dir()
    assert row(hone_home, run)["folder"] == f"runs/{run.id}"
    assert (row(hone_home, run)["status"], run.status) == ("created", "created")


def test_a_bad_name_makes_nothing(hone_home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        create_run(hone_home, kind="run", name="../x")
    assert list(hone_home.iterdir()) == []


def test_the_file_names_are_those_of_the_design(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    entries = [
        run.config,
        run.metrics,
        run.timings,
        run.ledger,
        run.manifest,
        run.proof,
        run.evaluation,
        run.result,
        run.report_html,
        run.report_markdown,
        run.adapter,
        run.checkpoints,
        run.log,
    ]
    assert {entry.parent for entry in entries} == {tmp_path / "out"}
    assert " ".join(entry.name for entry in entries) == (
        "config.yaml metrics.jsonl timings.jsonl ledger.jsonl manifest.json proof.json evaluation.json result.json "
        "report.html report.md adapter checkpoints log.txt"
    )
    assert os.fspath(run) == str(run.path)


def test_states_are_kept_in_the_folder_and_in_the_registry(hone_home: Path) -> None:
    run = create_run(hone_home, kind="run", name="support")
    with run.lock():
        run.start({"rank": 16})
        assert run.status == "running"
    assert row(hone_home, run)["config"] == {"rank": 16}

    run.interrupt()
    assert (run.status, row(hone_home, run)["status"]) == ("interrupted", "interrupted")
    assert row(hone_home, run)["finished_at"]

    again = RunFolder.open(run.path, home=hone_home)
    assert again == run
    again.start({"rank": 16})
    assert row(hone_home, run)["finished_at"] is None
    again.fail(TrainingError("the loss is not finite", remedy="lower the learning rate"))
    assert again.status == "failed"
    assert "lower the learning rate" in again.record()["error"]

    again.start({"rank": 16})
    again.finish({"version": "support@1", "text": "ü"})
    assert again.status == row(hone_home, run)["status"] == "done"
    assert again.record()["error"] is None
    assert json.loads(run.result.read_bytes()) == row(hone_home, run)["result"] == {"version": "support@1", "text": "ü"}


def test_a_run_whose_process_died_counts_as_interrupted(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    with run.lock():
        run.start({})
        assert run.status == "running"
    assert run.status == "interrupted"  # no state was written, and nobody holds the lock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="holds the lock in a forked process")
def test_two_processes_cannot_train_into_one_folder(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    context = multiprocessing.get_context("fork")
    holding = context.Event()

    def hold() -> None:
        with run.lock():
            run.start({})
            holding.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert holding.wait(30)
    assert run.status == "running"
    with pytest.raises(StorageError, match=rf"in use by another process \(process {process.pid}\)"), run.lock():
        pass
    with pytest.raises(StorageError, match="in use"):
        RunFolder.at(run.path)
    process.kill()
    process.join()
    assert run.status == "interrupted"
    with run.lock():
        pass


def test_locking_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    left = [run.path / ".adapter.0123456789ab.tmp", run.checkpoints / ".step-10.0123456789ab.tmp"]
    for folder in left:
        folder.mkdir(parents=True)
    (run.checkpoints / "step-5").mkdir()
    with run.lock():
        assert not any(folder.exists() for folder in left)
        assert (run.checkpoints / "step-5").exists()


class TestAt:
    def test_an_empty_folder_will_do(self, tmp_path: Path) -> None:
        run = RunFolder.at(tmp_path)
        assert run.path == tmp_path
        assert RunFolder.open(tmp_path) == run

    def test_a_file_will_not(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        with pytest.raises(ConfigError, match="is a file"):
            RunFolder.at(tmp_path / "x")

    def test_somebody_elses_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(ConfigError, match="no run of hone") as caught:
            RunFolder.at(tmp_path)
        assert "--output" in str(caught.value.remedy)
        assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_finished_run_is_kept(self, tmp_path: Path) -> None:
        run = RunFolder.at(tmp_path)
        run.finish({})
        with pytest.raises(ConfigError, match="finished run"):
            RunFolder.at(tmp_path)
        assert run.status == "done"

    def test_an_unfinished_run_with_checkpoints_is_to_be_resumed(self, tmp_path: Path) -> None:
        run = RunFolder.at(tmp_path)
        run.start({})
        (run.checkpoints / "step-5").mkdir(parents=True)
        with pytest.raises(ConfigError) as caught:
            RunFolder.at(tmp_path)
        assert f"hone train --resume {tmp_path}" in str(caught.value.remedy)
        assert RunFolder.open(tmp_path) == run

    def test_a_run_that_got_nowhere_is_begun_anew(self, tmp_path: Path) -> None:
        run = RunFolder.at(tmp_path)
        run.start({})
        run.metrics.write_text("{}\n")
        run.adapter.mkdir()
        (tmp_path / "notes.txt").write_text("mine")
        again = RunFolder.at(tmp_path)
        assert again.id != run.id
        assert again.status == "created"
        assert not run.metrics.exists()
        assert not run.adapter.exists()
        assert (tmp_path / "notes.txt").exists()

    def test_what_a_kill_at_the_very_start_leaves_is_no_hindrance(self, tmp_path: Path) -> None:
        (tmp_path / ".run.json.0123456789ab.tmp").write_text("{")
        assert RunFolder.at(tmp_path).status == "created"


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="no run of hone"):
        RunFolder.open(tmp_path)
    with pytest.raises(VersionError, match="no run of hone"):
        RunFolder.open(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"run\.json"):
        RunFolder.open(tmp_path)
