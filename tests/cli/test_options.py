"""Options come from the configs: their names, help and defaults, what is handed on, and what a config file adds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from hone.cli.app import app
from hone.config import ChatConfig, EvaluateConfig, GenerateConfig, RunConfig, TrainConfig, option_help
from tests.cli.conftest import FinishedRun, Hone

# Fixed by issue 2, whatever the configs hold.
FIXED = {
    "run": "eval name model documents map json epochs max-steps batch-size rank alpha learning-rate max-length seed "
    "save-every-steps held-out validation metric max-new-tokens device dtype output config resume",
    "train": "json output model epochs max-steps batch-size rank seed save-every-steps resume config map",
    "evaluate": "json metric max-new-tokens seed device dtype",
    "generate": "json system temperature top-p seed max-new-tokens base",
    "chat": "base system",
}
CONFIGS: dict[str, type[BaseModel]] = {
    "run": RunConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "generate": GenerateConfig, "chat": ChatConfig,
}  # fmt: skip


def _command(name: str) -> Any:
    return vars(typer.main.get_command(app))["commands"][name]


@pytest.mark.parametrize("name", FIXED)
def test_the_fixed_names_are_there(name: str) -> None:
    written = {text for parameter in _command(name).params for text in parameter.opts}
    assert {f"--{option}" for option in FIXED[name].split()} <= written


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_is_an_option_with_its_own_help(name: str) -> None:
    texts = {parameter.name: parameter.help for parameter in _command(name).params}
    for option, text in option_help(CONFIGS[name]).items():
        assert texts[option] == text


@pytest.mark.parametrize("name", ["run", "train", "evaluate", "generate", "chat", "doctor"])
def test_help_has_an_example_and_shortens_nothing(name: str, hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = hone(name, "--help")
    assert ended.code == 0
    assert f"Example: hone {name}" in ended.out
    assert "…" not in ended.out
    assert "..." not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_the_list_of_commands_is_not_shortened_either(hone: Hone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["--help"], ["models", "--help"], ["data"]):
        ended = hone(*arguments)
        assert ended.code == 0
        assert "..." not in ended.out.replace("[ARGS]...", "")


def test_what_was_not_given_is_left_to_the_config(
    hone: Hone, finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("rows.jsonl", "held.jsonl"):
        (tmp_path / name).touch()
    seen: list[RunConfig] = []

    def fake(config: RunConfig, **_: object) -> Any:
        seen.append(config)
        return finished_run.ended.json

    monkeypatch.setattr("hone.recipe.run.run", fake)
    assert hone("run", "rows.jsonl").code == 0
    assert seen[-1] == RunConfig(data="rows.jsonl")
    hone(
        "run", "rows.jsonl", "--eval", "held.jsonl", "--map", "prompt=q,completion=a", "--learning-rate", "2e-4",
        "--validation", "0.2", "--no-early-stop", "--documents", "docs", "--rank", "4",
    )  # fmt: skip
    assert seen[-1] == RunConfig(
        data="rows.jsonl", evaluation_data="held.jsonl", mapping={"prompt": "q", "completion": "a"},
        learning_rate=2e-4, validation=0.2, early_stop=False, documents=Path("docs"), rank=4,
    )  # fmt: skip


def test_the_command_line_wins_over_a_config_file(
    hone: Hone, finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr(
        "hone.recipe.run.run",
        lambda config, **_: seen.append(config) or finished_run.ended.json,  # type: ignore[func-returns-value]
    )
    file = tmp_path / "options.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from_file.jsonl").touch()
    file.write_text("data: from_file.jsonl\nepochs: 2\nrank: 3\n", encoding="utf-8")
    assert hone("run", "--config", file, "--rank", 5).code == 0
    assert seen == [RunConfig(data="from_file.jsonl", epochs=2, rank=5)]


def test_help_waits_for_no_heavy_library() -> None:
    heavy = {"datasets", "pandas", "pyarrow", "sacrebleu", "scipy", "sqlalchemy", "torch", "transformers"}
    code = f"import sys, hone.cli.app; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.strip() == "[]"


def test_the_version_is_printed(hone: Hone) -> None:
    from hone import __version__

    ended = hone("--version")
    assert (ended.code, ended.out) == (0, f"hone {__version__}\n")
