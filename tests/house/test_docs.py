"""The pages tell every option of every command and every field of a config, and show no command that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
import typer.main
from pydantic import BaseModel

from tests.house import command_line
from tests.house.source_tree import REPOSITORY

PAGE = """
# Using it

`hone train DATA --epochs 2` trains; `hone fly` does not exist.

```bash
HONE_HOME=/x hone train data.jsonl --epochs=3 \\
    --wings 2   # comment --ignored
$ hone models list --json | jq '.x --y'
.venv/bin/python -m hone models grow
hone models [list|show]
hone --version
```
"""


def _sample_app() -> typer.Typer:
    app = typer.Typer()
    models = typer.Typer()

    @app.callback(invoke_without_command=True)
    def root(version: Annotated[bool, typer.Option("--version")] = False) -> None: ...

    @app.command()
    def train(
        data: str,
        epochs: Annotated[int, typer.Option("--epochs", "-e")] = 1,
        pack: Annotated[bool, typer.Option("--pack/--no-pack")] = True,
        secret: Annotated[int, typer.Option("--secret", hidden=True)] = 1,
    ) -> None: ...

    @models.command("list")
    def list_models(json: Annotated[bool, typer.Option("--json")] = False) -> None: ...

    @models.command("show")
    def show_model(name: str) -> None: ...

    app.add_typer(models, name="models")
    return app


def test_commands_and_options_are_found() -> None:
    found = {one.name: one.options for one in command_line.commands(typer.main.get_command(_sample_app()))}
    found["hone"] = tuple(option for option in found["hone"] if "completion" not in option)
    assert found == {
        "hone": ("--version",),
        "hone train": ("--epochs", "--no-pack", "--pack"),
        "hone models list": ("--json",),
        "hone models show": (),
    }


def test_shown_commands_are_checked() -> None:
    root = typer.main.get_command(_sample_app())
    shown = list(command_line.shown_commands(PAGE, "page.md"))
    assert len(shown) == 7
    problems = [problem for one in shown if (problem := command_line.problem_with(one, root))]
    assert problems == [
        "page.md:7: hone train has no option --wings",
        "page.md:10: hone models has no command grow",
        "page.md: `hone fly`: hone has no command fly",
    ]


def test_every_option_is_documented() -> None:
    """A page of docs/ has a heading with the command's full name, and names each of its options."""
    texts = {page.name: page.read_text(encoding="utf-8") for page in sorted((REPOSITORY / "docs").rglob("*.md"))}
    missing = []
    for command in command_line.commands(command_line.root_command()):
        heading = re.compile(rf"^#+ .*\b{command.name}(?! *[\w-])", re.MULTILINE)
        telling = [text for text in texts.values() if heading.search(text)]
        if not telling and command.name != "hone":
            missing.append(f"{command.name}: no page has a heading that names it")
            continue
        for option in command.options:
            if "completion" not in option and not any(_names(option, text) for text in telling or texts.values()):
                missing.append(f"{command.name} {option}")
    assert not missing, "not documented in docs/:\n" + "\n".join(missing)


def _names(option: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


@pytest.mark.parametrize(("text", "expected"), [("`--pack`", True), ("--no-pack", False), ("--pack-all", False)])
def test_an_option_is_named_whole(text: str, expected: bool) -> None:
    assert _names("--pack", text) is expected


def test_every_shown_command_exists() -> None:
    root = command_line.root_command()
    texts = {str(page.relative_to(REPOSITORY)): page.read_text(encoding="utf-8") for page in command_line.pages()}
    shown = [one for name, text in texts.items() for one in command_line.shown_commands(text, name)]
    assert len(shown) >= 10
    problems = [problem for one in shown if (problem := command_line.problem_with(one, root))]
    assert not problems, "\n".join(problems)


def _walk(command: Any, name: str = "hone") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{name} {word}")


def test_every_command_option_and_argument_has_help() -> None:
    silent = []
    for name, command in _walk(command_line.root_command()):
        silent += [name] if not (command.help or "").strip() else []
        silent += [f"{name} {one.opts[0]}" for one in command.params if not getattr(one, "help", None)]
    assert not silent, "say what these do:\n" + "\n".join(silent)


def test_every_command_shows_an_example() -> None:
    leaves = {name: one for name, one in _walk(command_line.root_command()) if not getattr(one, "commands", {})}
    without = [name for name, one in leaves.items() if "hone " not in f"{one.help} {one.epilog}"]
    assert not without, f"their --help shows no example: {without}"


def test_every_config_field_is_described_and_documented() -> None:
    from hone.config import schema

    fields = {
        f"{model.__name__}.{name}": (name, field.description or "")
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
        for name, field in model.model_fields.items()
    }
    assert len(fields) > 10
    silent = [name for name, (_, description) in fields.items() if not description.strip()]
    assert not silent, f"without a description: {silent}"
    docs = "\n".join(page.read_text(encoding="utf-8") for page in command_line.pages())
    untold = sorted({field for field, _ in fields.values() if f"`{field}`" not in docs})
    assert not untold, f"not told in docs/, as `field`: {untold}"
