"""``hone models export`` and ``push``: what is printed, for people and for programs, and how they refuse."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from tests.cli.conftest import FinishedRun, Hone


@pytest.fixture(autouse=True)
def _no_llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HONE_NODE", str(tmp_path / "no-node"))


def test_what_was_written_is_printed(at_home: FinishedRun, hone: Hone, tmp_path: Path) -> None:
    ended = hone("models", "export", "orders", "--to", "gguf", "--out", tmp_path / "out", "--unproven")
    assert ended.code == 0, ended.err
    text = " ".join(ended.out.split())
    assert text.startswith("orders@1 as gguf, weights f16 (")
    assert "Proof the same answers in transformers" in text
    assert "Not checked llama.cpp: " in text
    assert f"Folder {tmp_path / 'out'}" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "export.json", "orders-1-f16.gguf",
    ]  # fmt: skip


def test_the_object_for_programs(at_home: FinishedRun, hone: Hone, tmp_path: Path) -> None:
    ended = hone("models", "export", "orders@1", "--to", "peft", "--out", tmp_path / "out", "--unproven", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["version"], ended.json["format"], ended.json["weights"]) == ("orders@1", "peft", "float32")
    assert ended.json["folder"] == str(tmp_path / "out")
    [check] = ended.json["checks"]
    assert check["equal_tokens"] == check["tokens"] > 0
    assert "adapter_model.safetensors" in ended.json["files"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["orders", "--to", "onnx", "--out", "x"], 2, "give one of peft, merged, gguf, ollama, vllm"),
        (["orders", "--to", "gguf", "--weights", "q3", "--out", "x"], 2, "give one of f16, q8_0, q4_1, q4_0"),
        (["nobody", "--to", "gguf", "--out", "x"], 2, "there is no version 'nobody'"),
        (["orders", "--to", "gguf", "--out", "."], 2, "is there already"),
        (["orders", "--out", "x"], 2, "--to"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, said: str, at_home: FinishedRun, hone: Hone, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ended = hone("models", "export", *arguments)
    assert ended.code == code
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not (tmp_path / "x").exists()


def test_a_push_without_a_token(at_home: FinishedRun, hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    ended = hone("models", "push", "orders", "you/orders")
    assert ended.code == 2
    assert "no token of the Hugging Face hub is set" in ended.err
    assert "HF_TOKEN" in ended.err
