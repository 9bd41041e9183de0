"""How commands fail: the message, the exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from hone.cli.failures import as_hone_error
from hone.errors import HoneError, MissingDependencyError, StorageError, TrainingError
from hone.registry.store import open_store, runs
from tests.cli.conftest import Hone

GOOD = '{"prompt": "why?", "completion": "because"}\n'

# command, what the message holds
BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "no data": (["run"], "DATA is missing"),
    "no data to check": (["data", "check"], "`hone data check --help`"),
    "no reward model": (["reward", "score"], "`hone reward score --help`"),
    "an option by its dashes": (["train", "x", "--learning-rate", "-1"], "--learning-rate -1: must be greater than 0"),
    "options against each other": (["run", "x", "--lm-eval-limit", "5"], "--lm-eval-limit 5 has no effect"),
    "an option that is refused later": (["run", "{folder}/good.jsonl", "--name", "a/b"], "Error: --name: "),
    "missing file": (["run", "{folder}/none.jsonl"], "none.jsonl: no such file"),
    "a share that draws nothing": (["chat", "x", "--top-p", "0.5"], "--top-p 0.5 has no effect with --temperature 0"),
    "text where a file is named": (["run", "What is a lamp? " * 20], "no such file: File name too long"),
    "text where a version is named": (["evaluate", "What is a lamp? " * 20], "no such file: File name too long"),
    "a near name": (["run", "{folder}/god.jsonl"], "good.jsonl"),
    "empty file": (["run", "{folder}/empty.jsonl"], "empty.jsonl"),
    "binary": (["train", "{folder}/binary.jsonl"], "binary.jsonl"),
    "unknown columns": (["run", "{folder}/columns.csv"], "columns.csv"),
    "no usable row": (["run", "{folder}/unusable.jsonl"], "unusable.jsonl:2"),
    "unknown model": (["run", "{folder}/good.jsonl", "--model", "nosuch"], "no model of the name 'nosuch'"),
    "unknown option": (["run", "{folder}/good.jsonl", "--epoch", "3"], "did you mean --epochs?"),
    "unknown command": (["rnu"], "run"),
    "three wrong values": (["run", "x", "--rank", "0", "--epochs", "x", "--dtype", "int8"], "3 options are wrong"),
    "unknown metric": (["run", "{folder}/good.jsonl", "--metric", "blue"], "did you mean bleu"),
    "output is a file": (
        ["train", "{folder}/good.jsonl", "--allow-few-rows", "--output", "{folder}/good.jsonl"],
        "is a file",
    ),
    "output is in use": (
        ["train", "{folder}/good.jsonl", "--allow-few-rows", "--output", "{folder}"],
        "is no run of hone",
    ),
    "held-out file is missing": (["run", "{folder}/good.jsonl", "--eval", "{folder}/none.jsonl"], "none.jsonl"),
    "a bad name": (["run", "{folder}/good.jsonl", "--name", "Not A Name"], "not-a-name"),
    "missing config": (["run", "{folder}/good.jsonl", "--config", "{folder}/none.yaml"], "none.yaml"),
    "missing documents": (["run", "{folder}/good.jsonl", "--documents", "{folder}/none"], "--documents"),
    "unknown version": (["evaluate", "nosuch"], "no version 'nosuch'"),
    "unknown number": (["chat", "nosuch@7"], "no version 'nosuch@7'"),
    "unknown model to show": (["models", "show", "nosuch"], "no version 'nosuch'"),
    "no prompt": (["generate", "nosuch"], "PROMPT is missing"),
}


@pytest.mark.parametrize("command", ["run", "train", "plan", "evaluate", "rank", "chat"])
def test_what_is_missing_is_told_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    name = f"{tmp_path / 'none.jsonl'}" if command in ("run", "train", "plan") else "none"
    script = (
        "import sys\nfrom hone.cli.app import main\n"
        f"try:\n    main([{command!r}, {name!r}])\n"
        "except SystemExit as ended:\n    assert ended.code == 2 and 'torch' not in sys.modules\n"
        "else:\n    raise AssertionError\n"
    )
    environment = {**os.environ, "HONE_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "none.jsonl: no such file" in ended.stderr or "there is no version 'none'" in ended.stderr


def test_a_missing_extra_is_no_bad_input_and_named_with_its_line(
    hone: Hone, rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    ended = hone("run", rows, "--model", tiny_base, "--lm-eval", "arc_easy", "--json")
    assert ended.code == MissingDependencyError.exit_code == 1
    assert ended.json["error"]["remedy"] == "pip install 'hone-llm[lm-eval]'"
    assert "What to do: pip install 'hone-llm[lm-eval]'" in ended.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file for each way to be bad, and a good one."""
    made = tmp_path / "data"
    made.mkdir()
    (made / "good.jsonl").write_text(GOOD * 1, encoding="utf-8")
    (made / "empty.jsonl").write_text("", encoding="utf-8")
    (made / "binary.jsonl").write_bytes(bytes(range(256)))
    (made / "columns.csv").write_text("when,where\nnow,here\n", encoding="utf-8")
    (made / "unusable.jsonl").write_text('{"prompt": "", "completion": "x"}\nno json\n', encoding="utf-8")
    return made


def _command(case: str, folder: Path) -> list[str]:
    return [word.format(folder=folder) for word in BAD_INPUT[case][0]]


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_said_in_a_few_lines(case: str, folder: Path, hone_home: Path, hone: Hone) -> None:
    before = sorted(folder.rglob("*"))
    ended = hone(*_command(case, folder))
    assert ended.code == 2, ended.err
    assert "\nError: " in f"\n{ended.err}"
    assert BAD_INPUT[case][1] in ended.err
    assert "What to do: " in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) <= 12
    assert ended.out == ""
    assert sorted(folder.rglob("*")) == before, "something was left beside the user's files"
    assert list(hone_home.glob("runs/*")) == [], "a run that never began was left behind"


@pytest.mark.parametrize("case", ["missing file", "unknown option", "three wrong values", "unknown model"])
def test_with_json_an_error_is_an_object(case: str, folder: Path, hone: Hone) -> None:
    ended = hone(*_command(case, folder), "--json")
    assert ended.code == 2
    assert ended.json["schema"] == 1
    error = ended.json["error"]
    assert error.keys() == {"type", "message", "where", "why", "remedy", "details"}
    assert BAD_INPUT[case][1] in f"{error['where']}: {error['message']}"
    assert error["remedy"]
    if case == "three wrong values":
        assert len(error["details"]) == 3


def test_ctrl_c_ends_with_130(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hone.model.machine.describe_machine", _raising(KeyboardInterrupt()))
    ended = hone("doctor")
    assert ended.code == 130
    assert ended.err.startswith("Stopped: ")


def test_a_bug_is_owned_up_to_and_its_traceback_kept(
    hone: Hone, hone_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HONE_TRACEBACK", raising=False)
    monkeypatch.setattr("hone.model.machine.describe_machine", _raising(RuntimeError("the moon is full")))
    ended = hone("doctor")
    assert ended.code == 1
    assert "a bug of hone" in ended.err
    assert "the moon is full" in ended.err
    assert "Traceback" not in ended.err
    [log] = (hone_home / "logs").iterdir()
    assert str(log) in ended.err
    written = log.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in written
    assert "\ndoctor\n" in written
    monkeypatch.setenv("HONE_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in hone("doctor").err


def _raising(error: BaseException) -> object:
    def raises(*_args: object) -> Iterator[object]:
        raise error

    return raises


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_the_systems_errors_become_ours(number: int) -> None:
    found = as_hone_error(OSError(number, "as the system says", "/some/where"), [])
    assert isinstance(found, StorageError)
    assert found.where == "/some/where"
    assert found.remedy


def test_too_little_memory_is_no_bug() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    for error in (MemoryError(), OutOfMemoryError("tried to allocate")):
        found = as_hone_error(error, [])
        assert isinstance(found, TrainingError)
        assert "memory" in found.what


def test_our_own_errors_stay_themselves() -> None:
    error = HoneError("as it is")
    assert as_hone_error(error, []) is error


def test_text_of_a_file_cannot_drive_the_terminal(hone: Hone, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"\x1b[2Jprompt": "a", "completion": "b"}) + "\n", encoding="utf-8")
    ended = hone("run", file)
    assert ended.code == 2
    assert "\x1b" not in ended.err


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-m", "hone", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_failure_that_nobody_reads_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hone", "run", str(tmp_path / "nowhere.jsonl"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(60) == 141


def test_a_reader_that_leaves_while_lines_are_printed_is_no_error(tmp_path: Path, tiny_base: Path) -> None:
    """Lines printed through rich, which by itself would end with code 1."""
    file = tmp_path / "rows.jsonl"
    file.write_text(GOOD * 200, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "hone", "data", "show", str(file), "--model", str(tiny_base), "--rows", "200"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Error" not in process.stderr.read()
    assert process.wait(120) == 141


# options, what the message holds: found only when model and rows are loaded
LATE_BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "no such device": (["run", "{rows}", "--device", "cuda:77"], "cuda:77"),
    "too long": (["run", "{rows}", "--max-length", "100000"], "100000 is more than the 512 tokens"),
    "all held out": (["run", "{rows}", "--held-out", "24"], "(--held-out): 24 held-out rows of 24"),
    "all for validation": (["train", "{rows}", "--validation", "24"], "(--validation): 24 validation rows of 24"),
    "one row": (
        ["run", "{one}", "--allow-few-rows"],
        "good.jsonl (--held-out): 1 row cannot be split into training and held-out rows",
    ),
    "a rank beyond the memory": (["train", "{rows}", "--rank", "1000000000"], "a rank of 1000000000 needs"),
}


@pytest.mark.parametrize("case", LATE_BAD_INPUT)
def test_bad_input_found_late_leaves_no_run_either(
    case: str, folder: Path, rows: Path, tiny_base: Path, hone_home: Path, hone: Hone, tmp_path: Path
) -> None:
    words, said = LATE_BAD_INPUT[case]
    command = [word.format(rows=rows, one=folder / "good.jsonl") for word in words] + ["--model", str(tiny_base)]
    ended = hone(*command)
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert "What to do: " in ended.err
    assert list(hone_home.glob("runs/*")) == []
    with open_store(hone_home).read() as connection:
        assert connection.execute(select(runs)).all() == []
    output = tmp_path / "output"
    assert hone(*command, "--output", output).code == 2
    assert not output.exists()


def test_one_column_cannot_be_two_things(folder: Path, hone: Hone) -> None:
    ended = hone("run", folder / "good.jsonl", "--map", "prompt=prompt,completion=prompt")
    assert ended.code == 2
    assert 'prompt and completion name the same column, "prompt"' in ended.err


def test_data_show_names_its_own_help(hone: Hone) -> None:
    ended = hone("data", "show")
    assert ended.code == 2
    assert "`hone data show --help`" in ended.err
