"""``hone generate`` and ``hone chat``: answers alone on standard output, histories, and the shared system message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hone.cli.app import main
from tests.cli.conftest import Ended, FinishedRun, Hone

LENGTH = ("--max-new-tokens", "6")


def test_only_the_answer_is_on_standard_output(at_home: FinishedRun, hone: Hone) -> None:
    plain = hone("generate", "orders", "what is it?", *LENGTH)
    as_object = hone("generate", "orders", "what is it?", *LENGTH, "--json")
    assert (plain.code, as_object.code) == (0, 0), plain.err
    assert plain.out == as_object.json["answer"] + "\n"
    answer = as_object.json
    assert (answer["schema"], answer["model"], answer["arm"]) == (1, "orders@1", "tuned")
    assert answer["stopped"] is (answer["tokens"] < 6)


def test_the_base_can_answer_instead(at_home: FinishedRun, tiny_base: Path, hone: Hone) -> None:
    instead = hone("generate", "orders", "what is it?", *LENGTH, "--base", "--json").json
    itself = hone("generate", tiny_base, "what is it?", *LENGTH, "--json").json
    tuned = hone("generate", "orders", "what is it?", *LENGTH, "--json").json
    assert (instead["arm"], itself["arm"]) == ("base", "base")
    assert instead["answer"] == itself["answer"] != tuned["answer"]


def test_the_prompt_can_come_from_standard_input(at_home: FinishedRun, hone: Hone) -> None:
    piped = hone("generate", "orders", "-", *LENGTH, stdin=b"what is it?\n")
    assert piped.out == hone("generate", "orders", "what is it?", *LENGTH).out
    empty = hone("generate", "orders", "-", stdin=b" \n")
    assert (empty.code, "standard input: is empty" in empty.err) == (2, True)
    assert "is not UTF-8" in hone("generate", "orders", "-", stdin=b"\xff\xfe").err


def test_a_seed_gives_the_same_answer_again(at_home: FinishedRun, hone: Hone) -> None:
    def answer(seed: int) -> str:
        ended = hone("generate", "orders", "hi", "--temperature", "1.5", "--seed", seed, "--max-new-tokens", 20)
        assert ended.code == 0, ended.err
        return ended.out

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in (1, 2, 3)}) > 1


def test_the_system_message_of_all_rows_is_used_and_said(
    tiny_base: Path, tmp_path: Path, hone: Hone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    conversations = [
        [("system", "Be a lamp."), ("user", f"what is {number}?"), ("assistant", "the lamp")] for number in range(12)
    ]
    lines = [
        json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})
        for turns in conversations
    ]
    rows.write_text("\n".join(lines), encoding="utf-8")
    folder = tmp_path / "run"
    trained = hone("train", rows, "--output", folder, "--model", tiny_base, "--max-steps", 1)
    assert trained.code == 0, trained.err
    by_default = hone("generate", folder, "hi", *LENGTH, "--json")
    assert by_default.json["system"] == "Be a lamp."
    assert "Be a lamp." in by_default.err
    without = hone("generate", folder, "hi", *LENGTH, "--json", "--system", "")
    assert without.json["system"] is None
    assert "Be a lamp." not in without.err
    other = hone("chat", folder, *LENGTH, "--system", "Be an order.", stdin=b"hi\n")
    assert "Be a lamp." not in other.err


def _chat(hone: Hone, *options: str, lines: str) -> Ended:
    ended = hone("chat", "orders", *LENGTH, *options, stdin=lines.encode())
    assert ended.code == 0, ended.err
    return ended


def test_chat_answers_each_line_and_keeps_the_conversation(at_home: FinishedRun, hone: Hone) -> None:
    alone = _chat(hone, lines="what is it?\n").out
    twice = _chat(hone, lines="hello\nwhat is it?\n").out
    forgotten = _chat(hone, lines="hello\n/reset\nwhat is it?\n").out
    first = hone("generate", "orders", "hello", *LENGTH).out
    assert twice.startswith(first)
    assert twice != first + alone, "the second answer has read the first turn"
    assert forgotten == first + alone


def test_chat_with_base_answers_beside(at_home: FinishedRun, hone: Hone) -> None:
    both = _chat(hone, "--base", lines="what is it?\n").out
    tuned = hone("generate", "orders", "what is it?", *LENGTH).out
    base = hone("generate", "orders", "what is it?", *LENGTH, "--base").out
    assert both == f"tuned: {tuned}base:  {base}"


def test_chat_ends_when_told_and_explains_itself(at_home: FinishedRun, hone: Hone) -> None:
    ended = _chat(hone, lines="/help\n\n/exit\nhello\n")
    assert ended.out == ""
    assert "/reset" in ended.err
    assert "orders@1, tuned from" in ended.err


def test_there_is_nothing_beside_a_base(tiny_base: Path, hone: Hone) -> None:
    ended = hone("chat", tiny_base, "--base")
    assert ended.code == 2
    assert "is a base itself" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_chat_on_a_terminal_survives_a_message_that_cannot_be_rendered(at_home: FinishedRun) -> None:
    import pty

    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-m", "hone", "chat", "orders", *LENGTH])
    shown = b""
    for message in (b"what <|im_start|> is\n", b"hello\n", b"/exit\n"):
        while not shown.endswith(b"> "):
            shown += os.read(terminal, 4096)
        os.write(terminal, message)
        shown += b"\n"
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux tells that the other side has closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert b"Error: " in shown
    assert b"Traceback" not in shown


@pytest.mark.parametrize("command", [("generate", "orders", "-"), ("chat", "orders")])
def test_a_closed_standard_input_is_said(
    at_home: FinishedRun, command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "Error: standard input: is closed" in capsys.readouterr().err


def test_a_command_of_chat_is_never_sent(at_home: FinishedRun, hone: Hone) -> None:
    ended = _chat(hone, lines="/reset now\n/exit please\n/helpless\n")
    assert ended.out == ""
    assert "/reset takes nothing behind it" in ended.err
    assert "/exit takes nothing behind it" in ended.err
    assert _chat(hone, lines="/usr/bin is what?\n").out == hone("generate", "orders", "/usr/bin is what?", *LENGTH).out


def test_the_prompt_is_named_as_the_asker_knows_it(at_home: FinishedRun, hone: Hone) -> None:
    ended = hone("generate", "orders", "what <|im_start|> is", "--system", "Be a lamp.")
    assert ended.code == 2
    assert "Error: the prompt contains the control token '<|im_start|>'" in ended.err
    ended = hone("generate", "orders", "hello", "--system", "Be <|im_start|>")
    assert "Error: the system message contains the control token" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    "command",
    [("chat", "orders"), ("generate", "orders", "hi", "--max-new-tokens", "400"), ("evaluate", "orders", "--json")],
)
def test_sigterm_ends_with_130_and_a_message(at_home: FinishedRun, command: tuple[str, ...]) -> None:
    """The signal comes where the work begins: at the first question whether the version is sound."""
    code = (
        "import os, signal, sys, hone.registry.versions as versions\n"
        "import hone.recipe.inference as inference\n"
        "inference.verify_version = lambda *given: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from hone.cli.app import main\n"
        "main(sys.argv[1:])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 130, ended.stderr
    if "--json" in command:
        assert json.loads(ended.stdout)["error"]["message"] == "SIGTERM"
    else:
        assert "Stopped: SIGTERM" in ended.stderr
