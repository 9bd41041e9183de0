"""The commands that README.md and docs/ show do what the pages say; see pages.py for the marks before each block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hone.cli.signals import StopRequest
from hone.registry.runs import RunFolder
from tests.docs.conftest import FIRST_RUN, Workshop
from tests.docs.pages import Block, Ended, accepted_codes, blocks, difference, page_names, page_text, with_tiny

PAGE = """
<!-- run -->
```console
$ hone models list
VERSION     RESULT
support@1   chrF 1.5 -> 20.5
```

<!-- run: exact, exit 2 -->
```console
$ hone run x
Error: x
$ ls
```

<!-- not run: takes minutes, and more -->
```console
$ make quickstart
```

```console
$ forgotten
```
"""
RUN = [name for name in page_names() if any(block.mode != "not run" for block in blocks(page_text(name), name))]


def test_blocks_are_found() -> None:
    found = list(blocks(PAGE, "page.md"))
    assert [(block.mode, block.exit_code, len(block.steps)) for block in found] == [
        ("labels", 0, 1),
        ("exact", 2, 2),
        ("not run", 0, 1),
        ("", 0, 1),
    ]
    assert found[0].place == "page.md:4"
    assert found[0].steps[0].shown == ("VERSION     RESULT", "support@1   chrF 1.5 -> 20.5")


@pytest.mark.parametrize(
    ("shown", "printed", "mode", "alike"),
    [
        ("Data  24 rows\nProof  9 hold", "Data  8 rows\n\nProof  7", "labels", True),
        ("Proof  9 hold\nData  24 rows", "Data  8 rows\n\nProof  7", "labels", False),
        ("Data  24 rows\n      16 trained on", "Data  8 rows", "labels", True),
        ('  "seed": 1,', '{\n  "seed": 2\n}', "labels", True),
        ('  "seeds": 1,', '{\n  "seed": 2\n}', "labels", False),
        ("of smollm2-135m-instruct: 0.5", "of\n  tiny: 17.25", "exact", True),
        ("Error: a ... b", "Error: a thing b", "exact", True),
        ("Error: a", "Error: a and more", "exact", False),
        ("anything", "", "varies", True),
    ],
)
def test_a_page_is_compared_with_what_was_printed(shown: str, printed: str, mode: str, alike: bool) -> None:
    assert (difference(tuple(shown.splitlines()), printed, mode) is None) is alike


def test_what_a_page_gives_is_not_replaced() -> None:
    assert with_tiny(["train", "x", "--model", "m", "--max-steps", "5"])[2:6] == ["--model", "m", "--max-steps", "5"]
    assert with_tiny(["data", "show", "x"]) == ["data", "show", "x", "--model", "tiny"]
    assert with_tiny(["train", "--resume", "x"]) == ["train", "--resume", "x"]


def test_every_console_block_says_whether_it_is_run() -> None:
    found = [block for name in page_names() for block in blocks(page_text(name), name)]
    wrong = [block.place for block in found if block.mode not in {"labels", "exact", "varies", "not run"}]
    assert not wrong, f"put <!-- run --> or <!-- not run: why --> before them: {wrong}"
    run = {" ".join(step.command.split()[:2]) for block in found if block.mode != "not run" for step in block.steps}
    commands = ("run", "train", "evaluate", "generate", "models", "data", "doctor")
    assert {f"hone {name}" for name in commands} <= run
    assert any("| hone chat" in step.command for block in found if block.mode != "not run" for step in block.steps)


@pytest.mark.parametrize("name", RUN)
def test_a_pages_commands_do_what_it_says(name: str, shell: Callable[[str], Ended]) -> None:
    for block in blocks(page_text(name), name):
        if block.mode == "not run":
            continue
        for step in block.steps:
            ended = shell(step.command)
            printed = ended.err + ended.out
            told = f"{block.place}: $ {step.command}\n"
            assert ended.code in accepted_codes(step, block), f"{told}ended with {ended.code}:\n{printed}"
            fault = difference(step.shown, printed, block.mode)
            assert fault is None, f"{told}{fault}\n{printed}"


def test_an_interrupted_training_goes_on_as_its_page_says(
    workshop: Workshop, shell: Callable[[str], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    resuming = [one for one in _blocks_of("docs/train.md") if "hone train --resume my-run" in _commands(one)]
    [block] = [one for one in resuming if one.mode == "not run"]
    begin, resume = block.steps
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", lambda self: True)  # as if Ctrl-C came in the first step
        stopped = shell(begin.command)
    assert stopped.code == 130
    assert difference(begin.shown, stopped.err[stopped.err.index("Stopped:") :], "exact") is None, stopped.err
    assert shell(resume.command).code == 0
    assert RunFolder.open(workshop.folder / "my-run").status == "done"


def _blocks_of(name: str) -> Iterator[Block]:
    return blocks(page_text(name), name)


def _commands(block: Block) -> list[str]:
    return [step.command for step in block.steps]


# --- every field of every object that --json prints stands on its page ------------------------------------------------

# Keys that are data: names of arms, metrics, labels, codes, files, packages.
DATA_KEYS = {"metrics", "arms", "codes", "files", "libraries", "answers", "scores", "stopped", "stop_share", "counts"}
DATA_KEYS |= {"keywords", "totals", "labels", "languages", "openings", "redacted", "lost"}


def keys_of(value: Any, within: str = "") -> Iterator[str]:
    """The field names of a JSON value, at any depth; where keys are data, what is below them alone."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if within not in DATA_KEYS:
                yield key
            yield from keys_of(inner, key if within not in DATA_KEYS else "")
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner, "")


def test_keys_are_found() -> None:
    value = {"a": [{"b": 1}], "arms": {"base": {"score": {"c": 2}}}}
    assert list(keys_of(value)) == ["a", "b", "arms", "score", "c"]


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("hone evaluate support --json", "docs/result.md"),
        ("hone train support.jsonl --output my-run --json", "docs/result.md"),
        ("hone generate support Hello --json", "docs/chat.md"),
        ("hone models list --json", "docs/models.md"),
        ("hone models export support --to peft --out exported --json", "docs/export.md"),
        ("hone data show mixed.jsonl --json", "docs/data.md"),
        ("hone data check support.jsonl --fix fixed.jsonl --json", "docs/data.md"),
        ("hone data convert support.jsonl --out chat.jsonl --json", "docs/data.md"),
        ("hone doctor --json", "docs/doctor.md"),
    ],
)
def test_every_field_is_on_its_page(command: str, page: str, shell: Callable[[str], Ended]) -> None:
    ended = shell(command)
    assert ended.code in (0, 3), ended.err
    value = json.loads(ended.out)
    value.pop("template", None)  # on the page of templates, below
    assert _untold(value, page) == []


def test_every_field_of_a_run_is_on_its_page(workshop: Workshop) -> None:
    [run] = (workshop.home / "runs").iterdir()
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    notes = json.loads((run / "adapter" / "hone.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert _untold(result, "docs/result.md") == []
    assert _untold(notes["template"], "docs/templates.md") == []
    assert _untold(dict.fromkeys(manifest), "docs/run-folder.md") == []


def _untold(value: Any, page: str) -> list[str]:
    text = page_text(page)
    return sorted({key for key in keys_of(value) if f"`{key}`" not in text})


def test_every_file_of_a_run_is_on_its_page(workshop: Workshop) -> None:
    [run] = (workshop.home / "runs").iterdir()
    text = page_text("docs/run-folder.md")
    names = [path.name + "/" * path.is_dir() for path in run.iterdir() if not path.name.startswith(".")]
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_measured_invariant_is_on_its_page(workshop: Workshop) -> None:
    [run] = (workshop.home / "runs").iterdir()
    proof = json.loads((run / "proof.json").read_text(encoding="utf-8"))
    text = page_text("docs/proof.md")
    assert [one["number"] for one in proof] == list(range(1, 13))
    assert [one["name"] for one in proof if f"| {one['number']} | {one['name']} |" not in text] == []


def test_the_first_run_is_the_one_that_a_page_shows() -> None:
    assert any(FIRST_RUN in _commands(block) for block in _blocks_of("docs/run.md"))
