"""What the tests of the recipes share: a tiny base on disk, rows to learn, and one finished run to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hone.config import EvaluateConfig, RunConfig, TrainConfig
from hone.engine.events import Event
from hone.recipe.evaluate import evaluate
from hone.recipe.run import run
from hone.recipe.run_files import held_out_file
from hone.registry import RunFolder
from hone.types import JsonDict
from tests.tiny import save_tiny

THINGS = ("lamp", "order", "bell", "box", "door", "street", "river", "garden", "letter", "window")
TOWNS = ("red", "blue", "green", "white", "amber", "violet")


@dataclass
class Listener:
    """A recorder that keeps what it hears, and asks for a stop after some step."""

    stop_after: int | None = None
    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def should_stop(self) -> bool:
        return self.stop_after is not None and len(self.of("step")) >= self.stop_after

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def notes(self) -> str:
        return "\n".join(str(event.data["text"]) for event in self.of("note"))


def row(number: int) -> JsonDict:
    """A question and its answer; no two numbers give near copies."""
    thing = THINGS[number % len(THINGS)]
    prompt = f"what of the {thing} number {number * 37 % 101} in {TOWNS[number % len(TOWNS)]} town?"
    return {"prompt": prompt, "completion": f"the {thing} is lit"}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON Lines; text stands in the file as it is."""
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[JsonDict]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template, as a model folder."""
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny", max_position_embeddings=512)


@pytest.fixture
def own_base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "own-base"))


@pytest.fixture
def train_options(tiny_base: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Options of a small training run; what is given goes before."""

    def make(**given: Any) -> TrainConfig:
        if "data" not in given:
            given["data"] = str(write_jsonl(tmp_path / "questions.jsonl", [row(number) for number in range(24)]))
        # what a random model says to general prompts is worth no replay; test_replay.py asks for it
        small = {"model": str(tiny_base), "rank": 4, "epochs": 2, "learning_rate": 5e-3, "dtype": "float32"}
        small["general_rows"] = 0
        return TrainConfig.model_validate({**small, "device": "cpu", **given})

    return make


@pytest.fixture
def run_options(train_options: Callable[..., TrainConfig]) -> Callable[..., RunConfig]:
    """Options of a small whole run."""

    def make(**given: Any) -> RunConfig:
        names = (
            "eval", "name", "documents", "held_out", "metric", "arms", "instruction", "keep", "probes", "retention",
        )  # fmt: skip
        own = {"probes": 0, **{name: given.pop(name) for name in names if name in given}}
        limit = given.pop("max_new_tokens", 8)
        shared = train_options(**given).model_dump(by_alias=True)
        return RunConfig.model_validate({**shared, "max_new_tokens": limit, **own})

    return make


def evaluate_in_this_process(config: RunConfig, folder: RunFolder, home: Path) -> JsonDict:
    """What the fresh process prints, without starting one."""
    asked = EvaluateConfig(
        version=str(folder.path), data=str(held_out_file(folder)), seed=config.seed, metric=config.metric,
        max_new_tokens=config.max_new_tokens, device=config.device, dtype=config.dtype, arms=config.arms,
        instruction=config.instruction, documents=config.documents,
        keep=config.keep, probes=config.probes, retention=config.retention, lm_eval=config.lm_eval,
        lm_eval_limit=config.lm_eval_limit,
    )  # fmt: skip
    found = evaluate(asked, home=home, recorder=Listener())
    assert found.verdict is not None
    return {
        "evaluation": found.evaluation,
        "answers": found.answers,
        "retention": found.retention,
        "verdict": found.verdict.to_json(),
        "proof": [invariant.to_json() for invariant in found.proof],
        "generation": found.settings,
    }


@pytest.fixture
def evaluated_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison in this process: a fresh one takes seconds to start, and ``test_run.py`` shows both alike."""
    monkeypatch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)


@dataclass(frozen=True)
class Finished:
    """A finished run: its home, its options, what it gave and what it said."""

    home: Path
    config: RunConfig
    result: JsonDict
    heard: Listener

    @property
    def folder(self) -> Path:
        return Path(self.result["run_dir"])


@pytest.fixture(scope="session")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that learned its task: 40 good rows and three bad ones, every default that the tiny base allows."""
    folder = tmp_path_factory.mktemp("finished")
    bad = ['{"prompt": "no answer to this"}', "no json at all", {"prompt": "an empty one", "completion": ""}]
    data = write_jsonl(folder / "questions.jsonl", [*(row(number) for number in range(40)), *bad])
    heard = Listener()
    config = RunConfig.model_validate(
        {
            "data": str(data), "model": str(tiny_base), "learning_rate": 1e-2, "epochs": 12, "early_stop": False,
            "device": "cpu", "dtype": "float32", "probes": 0, "general_rows": 0,
        }
    )  # fmt: skip
    result = run(config, home=folder / "home", recorder=heard)
    return Finished(folder / "home", config, result, heard)
