"""llama.cpp beside hone: found only where it was installed for hone, and what goes wrong in it is said."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from hone.errors import MissingDependencyError, ModelError
from hone.model.llama_cpp import LlamaCpp, LlamaCppPrompt, find_llama_cpp

PROMPT = LlamaCppPrompt("text", (5, 6), (7, 2), ({"role": "user", "content": "ü"},))


def program(folder: Path, body: str) -> str:
    """A program in Node's place."""
    path = folder / "node"
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_it_is_looked_for_in_hones_own_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("HONE_NODE", raising=False)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "node_modules" / "node-llama-cpp"
    package.mkdir(parents=True)
    (package / "package.json").write_text("{}", encoding="utf-8")
    found = find_llama_cpp(tmp_path / "home")
    assert isinstance(found, str)
    assert f"npm install --prefix {tmp_path / 'home' / 'node'} --ignore-scripts node-llama-cpp" in found
    monkeypatch.setenv("HONE_NODE", str(tmp_path))
    assert find_llama_cpp(tmp_path / "home") == LlamaCpp(str(tmp_path / "node"), package)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_llama_cpp(tmp_path / "home") == "Node.js is not installed"


def test_what_is_asked_and_answered(tmp_path: Path) -> None:
    answer = {
        "runtime": "llama.cpp b1", "ends": [2], "tokens": 2, "seconds": 0.5,
        "prompts": [
            {"textIds": [5, 6], "written": [7], "wrote": 2, "picks": [7, 2], "logprobs": [-0.5, -1], "rendered": "text"}
        ],
    }  # fmt: skip
    keep = f"json.dump([json.load(sys.stdin), sys.argv], open({str(tmp_path / 'asked.json')!r}, 'w'))"
    body = f"{keep}\nprint({json.dumps(answer)!r})"
    runtime = LlamaCpp(program(tmp_path, body), tmp_path / "package")
    reading = runtime.read(tmp_path / "model.gguf", [PROMPT], stop_ids=(2, 3), new_tokens=4)
    asked, arguments = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert arguments[1].endswith("llama_cpp.mjs")
    assert Path(arguments[1]).is_file()
    assert asked["prompts"] == [
        {"text": "text", "ids": [5, 6], "answer": [7, 2], "messages": [{"role": "user", "content": "ü"}]}
    ]
    assert (asked["stops"], asked["newTokens"], asked["model"]) == ([2, 3], 4, str(tmp_path / "model.gguf"))
    [one] = reading.answers
    assert (one.text_ids, one.written, one.picks, one.logprobs) == ((5, 6), (7, 2), (7, 2), (-0.5, -1.0))
    assert (reading.ends, reading.runtime, reading.written_tokens) == (frozenset({2}), "llama.cpp b1", 2)


def test_its_last_words_are_passed_on(tmp_path: Path) -> None:
    broken = LlamaCpp(program(tmp_path, "sys.exit('Error: wrong magic\\n    at readFile (x.js)')"), tmp_path)
    with pytest.raises(ModelError, match="wrong magic") as raised:
        broken.read(tmp_path / "model.gguf", [PROMPT], stop_ids=(2,), new_tokens=0)
    assert "at readFile" not in str(raised.value)
    without = LlamaCpp(program(tmp_path, "sys.exit('throw new NoBinaryFoundError();')"), tmp_path)
    with pytest.raises(MissingDependencyError, match="this machine"):
        without.read(tmp_path / "model.gguf", [PROMPT], stop_ids=(2,), new_tokens=0)
    with pytest.raises(ModelError, match="did not answer"):
        LlamaCpp(str(tmp_path / "gone"), tmp_path).read(tmp_path / "m", [PROMPT], stop_ids=(2,), new_tokens=0)
