"""What the tests of the pages share: a working folder as a user has it, with one version in its home."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hone.cli.app import main
from tests.docs.pages import REPOSITORY, TINY, Ended, page_text, run_line
from tests.tiny import tiny_model, tiny_tokenizer

FIRST_RUN = "hone run support.jsonl --eval held_out.jsonl --name support"

# SmolLM2's own, so that pages show what users of the embedded base see.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Workshop:
    """The working folder and the home of the pages' user; ``done`` holds how each line ended that trains a version."""

    folder: Path
    home: Path
    done: dict[str, Ended] = field(default_factory=dict)


def hone_here(words: list[str], stdin: bytes) -> Ended:
    """Run a command line of hone in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def first_workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A folder with rows and a tiny base, after the first run of docs/run.md."""
    place = tmp_path_factory.mktemp("workshop")
    workshop = Workshop(place / "work", place / "home")
    workshop.folder.mkdir()
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(workshop.folder / TINY)
    tiny_tokenizer(TEMPLATE).save_pretrained(workshop.folder / TINY)
    _write_inputs(workshop.folder)
    with pytest.MonkeyPatch.context() as patch:
        _enter(workshop, patch)
        workshop.done[FIRST_RUN] = run_line(FIRST_RUN, hone_here, workshop.folder)
    assert workshop.done[FIRST_RUN].code in (0, 3), workshop.done[FIRST_RUN].err
    return workshop


def _write_inputs(folder: Path) -> None:
    support = REPOSITORY / "examples" / "support"
    for source, name, count in (("train.jsonl", "support.jsonl", 24), ("eval.jsonl", "held_out.jsonl", 8)):
        rows = (support / source).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        (folder / name).write_text("".join(rows), encoding="utf-8")
    new = (support / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[24:44]
    (folder / "new.jsonl").write_text("".join(new), encoding="utf-8")
    mixed = page_text("docs/data.md").split("```json\n", 1)[1].split("```", 1)[0]
    (folder / "mixed.jsonl").write_text(mixed, encoding="utf-8")
    tickets = "subject,reply\nMy lamp flickers.,Please press the reset button.\nWhere is my order?,On its way.\n"
    (folder / "tickets.csv").write_text(tickets, encoding="utf-8")
    (folder / "options.yaml").write_text(
        "model: smollm2-135m-instruct\nepochs: 2\nlearning_rate: 5e-4\nseed: 1\n", encoding="utf-8"
    )
    (folder / "bad.yaml").write_text("epochs: 3\nlearning_rte: 0.001\nepochs: 4\n", encoding="utf-8")


def _enter(workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(workshop.folder)
    patch.setenv("HONE_HOME", str(workshop.home))
    patch.setenv("COLUMNS", "80")


@pytest.fixture
def workshop(first_workshop: Workshop, tmp_path: Path) -> Iterator[Workshop]:
    """A copy of the first workshop, in force: what one page does, another does not see."""
    copy = Workshop(tmp_path / "work", tmp_path / "home", first_workshop.done)
    shutil.copytree(first_workshop.folder, copy.folder)
    shutil.copytree(first_workshop.home, copy.home)
    with pytest.MonkeyPatch.context() as patch:
        _enter(copy, patch)
        yield copy


@pytest.fixture
def shell(workshop: Workshop) -> Callable[[str], Ended]:
    """Runs a shown line in the workshop. Runs take seconds: a line that ran before is not run again."""

    def run(command: str) -> Ended:
        if command not in workshop.done:
            ended = run_line(command, hone_here, workshop.folder)
            if not command.startswith("hone run ") or ended.code not in (0, 3) or ">" in command:
                return _as_at_home(ended, workshop)
            workshop.done[command] = ended
        return _as_at_home(workshop.done[command], workshop)

    return run


def _as_at_home(ended: Ended, workshop: Workshop) -> Ended:
    """With the pages' folders in place of the test's."""

    def mended(text: str) -> str:
        text = text.replace(str(workshop.home), "/home/you/.local/share/hone")
        return text.replace(str(workshop.folder), "/home/you/work")

    return Ended(ended.code, mended(ended.out), mended(ended.err))
