"""``hone run``, whole: what it prints for programs and for people, what it leaves, and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hone.cli.summary import print_run
from tests.cli.conftest import FinishedRun, Hone, write_rows
from tests.documented_result import DOCUMENTED, missing


def test_the_json_result_has_the_documented_keys(finished_run: FinishedRun) -> None:
    result = finished_run.ended.json
    assert missing(result, DOCUMENTED) == []
    assert result["schema"] == 1


def test_rows_add_up_and_none_is_lost(finished_run: FinishedRun) -> None:
    data = finished_run.ended.json["data"]
    assert (data["rows"], data["dropped"]) == (26, 2)
    assert data["kept"] + data["cut"] + data["dropped"] == data["rows"]
    assert data["train"] + data["validation"] + data["held_out"] == data["kept"] + data["cut"]


def test_it_leaves_a_version_and_a_readable_folder(finished_run: FinishedRun, at_home: FinishedRun, hone: Hone) -> None:
    result = finished_run.ended.json
    folder = Path(result["run_dir"])
    for name in ("config.yaml", "metrics.jsonl", "ledger.jsonl", "proof.json", "evaluation.json", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    assert Path(result["report"]).is_file()
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "done"
    listed = hone("models", "list", "--json").json["versions"]
    assert [one["version"] for one in listed] == [result["version"]] == ["orders@1"]


def test_with_json_everything_else_goes_to_standard_error(finished_run: FinishedRun) -> None:
    code, printed = finished_run.ended.code, finished_run.ended.err
    assert code == (3 if finished_run.ended.json["verdict"]["decision"] == "do_not_ship" else 0)
    for stage in ("model", "data", "training", "evaluation"):
        assert re.search(rf"^{stage} ", printed, re.MULTILINE), stage
    assert re.search(r"epochs +\d+ +\S", printed), "what was chosen, and why"


def test_the_result_for_people_is_whole_at_80_columns(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    result = finished_run.ended.json
    capsys.readouterr()
    print_run(result)
    text = capsys.readouterr().out
    for line in text.splitlines():
        assert len(line) <= 80 or line.split()[-1].startswith(str(finished_run.home)), line
    assert "26 rows read: 24 kept, 2 dropped (" in text
    assert "orders.jsonl:25: " in text
    evaluation = result["evaluation"]
    title = evaluation["metrics"][evaluation["metric"]]["title"]
    printed = " ".join(re.findall(rf"^  {re.escape(title)}  +(.*)$", text, re.MULTILINE)).split()
    # the arms in their order, in one table or in two below each other
    assert printed[: len(evaluation["arms"])] == [f"{arm['score']:.1f}" for arm in evaluation["arms"].values()]
    held = sum(one["holds"] for one in result["proof"])
    assert f"{held} of {len(result['proof'])} invariants hold" in text
    assert result["verdict"]["reason"].split("(")[0].strip() in " ".join(text.split())
    assert "hone chat orders@1" in text
    assert result["report"] in text


@pytest.mark.parametrize("status", ["proven", "unproven"])
def test_an_unproven_version_is_named_beside_its_verdict(
    status: str, finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    print_run({**finished_run.ended.json, "status": status})
    verdict = capsys.readouterr().out.split("Verdict", 1)[1]
    assert ("neither promoted nor exported" in " ".join(verdict.split())) == (status == "unproven")


def test_a_pipe_gets_no_escape_codes(tiny_base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "orders.jsonl", 12)
    command = [sys.executable, "-m", "hone", "run", str(rows), "--model", str(tiny_base), "--max-steps", "2"]
    done = subprocess.run([*command, "--max-new-tokens", "4"], capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr.decode()
    for printed in (done.stdout, done.stderr):
        assert b"\x1b" not in printed
        assert b"\r" not in printed
    assert done.stdout.startswith(b"orders@1 (")
    # the fresh process that evaluates reports on the same stream
    assert b"tuned: answers" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_during_the_evaluation_is_said_once_and_resumed(tiny_base: Path, rows: Path, hone: Hone) -> None:
    command = [sys.executable, "-m", "hone", "run", str(rows), "--model", str(tiny_base), "--max-steps", "4"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "4", "--save-every-steps", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("evaluation"):
            break
    process.stderr.readline()  # the other process is at work
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.count("Stopped: ") == 1
    assert "Traceback" not in err
    [folder] = re.findall(r"hone run --resume (\S+?)`", err)
    assert hone("models", "list").out == ""
    resumed = hone("run", "--resume", folder, "--json")
    assert resumed.code in (0, 3), resumed.err
    assert (resumed.json["version"], resumed.json["training"]["steps"]) == ("orders@1", 4)


@pytest.mark.parametrize(("decision", "code"), [("ship", 0), ("not_enough_evidence", 0), ("do_not_ship", 3)])
def test_the_exit_code_is_the_verdicts(
    decision: str, code: int, finished_run: FinishedRun, rows: Path, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = {**finished_run.ended.json["verdict"], "decision": decision, "exit_code": code}
    result = {**finished_run.ended.json, "verdict": verdict}
    monkeypatch.setattr("hone.recipe.run.run", lambda *_args, **_options: result)
    ended = hone("run", rows)
    assert ended.code == code
    title = {"ship": "Ship.", "not_enough_evidence": "Not enough evidence.", "do_not_ship": "Do not ship."}[decision]
    assert re.search(rf"^Verdict +{re.escape(title)}", ended.out, re.MULTILINE)


def test_the_held_out_file_is_used(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "why is it so?", "completion": "the lamp is lit"}\n' * 1, encoding="utf-8")
    ended = hone(
        "run", rows, "--eval", held_out, "--name", "lamp", "--model", tiny_base, "--max-steps", 1,
        "--max-new-tokens", 2, "--json",
    )  # fmt: skip
    assert ended.code in (0, 3), ended.err
    assert ended.json["version"] == "lamp@1"
    assert (ended.json["data"]["held_out"], ended.json["evaluation"]["rows"]) == (1, 1)
