"""Exports: each format's files give the version's answers in a library of others; else nothing is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from sqlalchemy import text
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hone.errors import ConfigError, ModelError, ProofError, StorageError, VersionError
from hone.files import sha256_file
from hone.model.gguf_load import load_gguf_weights
from hone.recipe.export import EXPORT_FORMATS, ExportResult, export_version
from hone.recipe.inference import load_answerer
from hone.registry import resolve_version
from hone.registry.store import open_store
from hone.types import Message
from tests.recipe.conftest import Finished, Listener
from tests.tiny import row_logits

IDS = [5, 60, 71, 90, 33, 12]
Export = Callable[..., ExportResult]


@pytest.fixture
def home(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run's home, which a test may change."""
    return Path(shutil.copytree(finished.home, tmp_path / "home"))


@pytest.fixture
def export(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Export the one version there is; llama.cpp has tests of its own."""
    monkeypatch.setenv("HONE_NODE", str(tmp_path / "no-node"))

    def run(target: str, **given: Any) -> ExportResult:
        options = {"out": tmp_path / target, "home": home, "recorder": Listener(), **given}
        return export_version("questions", target=target, **options)

    return run


@pytest.fixture(scope="session")
def tuned(finished: Finished) -> torch.Tensor:
    """Logits of the version as hone loads it."""
    answerer = load_answerer("questions", home=finished.home, dtype="float32", note=lambda _: None)
    return row_logits(answerer.base.model, IDS)


def plain(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return model


def test_peft_loads_the_adapter(export: Export, tiny_base: Path, tuned: torch.Tensor) -> None:
    result = export("peft")
    [check] = result.checks
    assert (result.status, check.equal_tokens, check.equal_answers) == ("proven", check.tokens, check.answers)
    assert check.runtime == f"peft {peft.__version__}"
    assert check.answers == 6 + 8, "conversations without tools, and held-out rows"
    base = plain(tiny_base)
    assert (row_logits(base, IDS) - tuned).abs().max() > 0.01
    wrapped: Any = peft.PeftModel.from_pretrained(base, str(result.folder)).eval()
    torch.testing.assert_close(row_logits(wrapped, IDS), tuned, atol=1e-4, rtol=1e-4)


def test_transformers_loads_the_merged_folder(export: Export, tuned: torch.Tensor) -> None:
    result = export("merged")
    assert (result.status, result.weights) == ("proven", "float32")
    model = plain(result.folder)
    torch.testing.assert_close(row_logits(model, IDS), tuned, atol=1e-4, rtol=1e-4)
    tokenizer: Any = AutoTokenizer.from_pretrained(result.folder)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hm"}], tokenize=False, add_generation_prompt=True
    )
    assert said == "<|im_start|>user\nhm<|im_end|>\n<|im_start|>assistant\n"
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == 2
    half = export("merged", weights="bfloat16", out=result.folder.with_name("half"))
    assert plain(half.folder).dtype == torch.bfloat16


@pytest.mark.parametrize(("weights", "tolerance"), [("f16", 0.02), ("q8_0", 0.3)])
def test_transformers_loads_the_gguf(weights: str, tolerance: float, export: Export, tuned: torch.Tensor) -> None:
    result = export("gguf", weights=weights)
    assert result.status == "proven"
    assert [runtime for runtime, _ in result.not_checked] == ["llama.cpp"]
    assert "npm install --prefix" in result.not_checked[0][1]
    model, _ = load_gguf_weights(result.folder / f"questions-1-{weights}.gguf")
    assert (row_logits(model, IDS) - tuned).abs().max() < tolerance


@pytest.mark.parametrize("weights", ["q4_0", "q4_1"])
def test_four_bits_are_written_where_they_keep_the_answers(weights: str, export: Export, home: Path) -> None:
    """A model of width 64 has nothing to spare: whether it passes is the proof's to say, and by its figures alone."""
    result = export("gguf", weights=weights, accept_unproven=True)
    [check] = result.checks
    model, _ = load_gguf_weights(result.folder / f"questions-1-{weights}.gguf")
    answers = json.loads((result.folder / "export.json").read_text(encoding="utf-8"))["answers"]
    answerer = load_answerer("questions", home=home, dtype="float32", note=lambda _: None)
    prompt = answerer.prompt([Message("user", "What is the capital of France?")])
    [first] = [one["answer_ids"] for one in answers if one["prompt"] == "question"]
    picks = row_logits(model, [*prompt, *first]).argmax(dim=-1)[len(prompt) - 1 : -1].tolist()
    assert check.equal_tokens <= check.tokens - sum(a != b for a, b in zip(picks, first, strict=True))
    assert check.invariant.holds == (check.equal_tokens / check.tokens >= 0.8 and check.difference_nats <= 1)
    assert result.status == ("proven" if check.invariant.holds else "unproven")


def test_ollamas_modelfile(export: Export) -> None:
    result = export("ollama")
    modelfile = (result.folder / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith('FROM ./questions-1-f16.gguf\nTEMPLATE """{{ range .Messages }}')
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>\n" in modelfile
    assert modelfile.endswith('PARAMETER stop "<|im_end|>"\n')
    assert (result.folder / "questions-1-f16.gguf").is_file()


def test_vllms_command_line(export: Export, tiny_base: Path) -> None:
    result = export("vllm")
    text_ = (result.folder / "README.md").read_text(encoding="utf-8")
    command = f"vllm serve {tiny_base} --enable-lora --max-lora-rank 16 \\\n  --lora-modules questions={result.folder} "
    assert f"{command}--chat-template {result.folder}/chat_template.jinja\n" in text_
    assert dict(result.not_checked)["vllm"]
    assert result.status == "proven", "as far as PEFT can tell"


@pytest.mark.parametrize("target", EXPORT_FORMATS)
def test_the_record_and_the_card_stand_beside_the_files(target: str, export: Export, finished: Finished) -> None:
    result = export(target)
    record = json.loads((result.folder / "export.json").read_text(encoding="utf-8"))
    there = {path.name for path in result.folder.iterdir()} - {"export.json"}
    assert {name: sha256_file(result.folder / name) for name in there} == record["files"] == result.files
    assert record["version"] == "questions@1"
    assert record["base"]["hash"] == finished.result["base"]["hash"]
    assert record["checks"][0]["invariant"]["number"] == 11
    assert record["checks"][0]["invariant"]["measured"] >= 0.99
    assert len(record["answers"]) == record["checks"][0]["answers"]
    card = ModelCard.load(result.folder / "README.md")
    library = {"peft": "peft", "vllm": "peft", "merged": "transformers", "gguf": "gguf", "ollama": "gguf"}[target]
    assert card.data.to_dict()["library_name"] == library
    assert "hone" in card.data.to_dict()["tags"]
    assert card.text.count("## Use") == 1
    assert "## Proof" in card.text


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one row of one matrix lost on the way into the file."""
    from hone.recipe import export_files

    honest = export_files.write_gguf

    def lossy(model: PreTrainedModel, *arguments: Any, **given: Any) -> list[str]:
        with torch.no_grad():
            model.get_parameter("model.layers.0.self_attn.v_proj.weight")[:8] = 0
        return honest(model, *arguments, **given)

    monkeypatch.setattr(export_files, "write_gguf", lossy)


def test_other_answers_are_refused_with_the_first_token_and_nothing_is_left(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ProofError, match=r"token \d+ of the answer: .* and hone writes") as raised:
        export("gguf")
    assert "nothing was written" in raised.value.what
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    written = export("gguf", accept_unproven=True)
    assert written.status == "unproven"
    assert not written.checks[0].invariant.holds


def test_an_unproven_version_needs_to_be_accepted(export: Export, home: Path) -> None:
    with open_store(home).write() as connection:
        connection.execute(text("update versions set status = 'unproven'"))
    with pytest.raises(ProofError, match="hone does not export it"):
        export("peft")
    result = export("peft", accept_unproven=True)
    assert result.status == "unproven", "its files are right, and it is unproven all the same"
    assert result.checks[0].invariant.holds
    assert "unproven" in result.notes[0]


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        ("onnx", {}, "'onnx' is no format"),
        ("gguf", {"weights": "q2_k"}, "gguf does not store weights as 'q2_k'"),
        ("peft", {"weights": "f16"}, "leave it out"),
        ("merged", {"weights": "f16"}, "float32, bfloat16, float16"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(
    target: str, given: dict[str, Any], said: str, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hone.recipe.export.load_answerer", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=said):
        export(target, **given)


def test_no_folder_is_written_over(export: Export, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(ConfigError, match="is there already"):
        export("peft", out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_only_versions_are_exported(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(VersionError):
        export_version(str(tiny_base / "x"), target="peft", out=tmp_path / "out", home=home, recorder=Listener())


def test_a_damaged_version_is_not_exported(export: Export, home: Path) -> None:
    weights = resolve_version(home, "questions").adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged"):
        export("peft")


def test_whole_weights_are_no_adapter(export: Export, home: Path) -> None:
    adapter = resolve_version(home, "questions").adapter
    from hone.recipe import export_files

    real = export_files._ADAPTER_CONFIG
    assert (adapter / real).is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_files, "_ADAPTER_CONFIG", "of-full-training.json")
        with pytest.raises(ModelError, match="is no adapter"):
            export("peft")
