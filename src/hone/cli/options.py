"""Options of commands, made from the fields of a config: name, help and default are written there and nowhere else.

A command takes them as ``**given`` and hands them to :func:`hone.config.load_config`, which checks all of them
together. None means that an option was not given.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hone.config import option_help

__all__ = ["ConfigFileOption", "JsonOption", "NumbersPanel", "options_of"]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, for programs; all else on stderr.")
]
ConfigFileOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of options, as `epochs: 3`; the command line wins."),
]
NumbersPanel = "Numbers and limits"

# What a person decides about; the others stand below them, in a panel of their own.
_FIRST = ("arms", "base", "documents", "eval", "limit", "map", "model", "name", "output", "system")
_METAVARS: tuple[tuple[type, str], ...] = ((Path, "PATH"), (dict, "COLUMNS"), (tuple, "NAMES"), (str, "TEXT"))


def options_of(
    config_class: type[BaseModel], *, arguments: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's ``**given`` by one option for each field of a config.

    Args:
        config_class: the config; its fields' descriptions are the help.
        arguments: fields that are given by place and not by name. They may be left out here, because a config file
            or a resumed run can hold them: the config says what is missing.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        made = _parameters(config_class, arguments)
        ordered = sorted([*made, *own], key=lambda one: one.name not in arguments)

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            command(**given)

        # typer reads a command's options from its signature
        vars(with_options)["__signature__"] = signature.replace(parameters=ordered)
        return with_options

    return decorate


def _parameters(config_class: type[BaseModel], arguments: Collection[str]) -> list[inspect.Parameter]:
    made = []
    for (name, text), field in zip(option_help(config_class).items(), config_class.model_fields.values(), strict=True):
        kinds = _kinds(field.annotation)
        if name in arguments:
            annotation: Any = Annotated[str | None, typer.Argument(help=text, metavar=name.upper(), show_default=False)]
        elif bool in kinds:
            annotation = Annotated[bool | None, _switch(name, text, field)]
        else:
            annotation = Annotated[str | None, _option(f"--{_dashed(name)}", name, text, metavar=_metavar(kinds))]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return made


def _option(declaration: str, name: str, text: str, metavar: str | None) -> Any:
    panel = None if name in _FIRST else NumbersPanel
    return typer.Option(declaration, help=text, metavar=metavar, show_default=False, rich_help_panel=panel)


def _switch(name: str, text: str, field: FieldInfo) -> Any:
    declaration = f"--{_dashed(name)}" + (f"/--no-{_dashed(name)}" if field.default else "")
    return _option(declaration, name, text, metavar=None)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _kinds(annotation: Any) -> set[Any]:
    """The types that a field takes: ``Annotated[float | int, ...] | None`` gives float and int."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Literal:
        return {annotation}
    if origin is types.UnionType or "Union" in str(origin):
        return {kind for part in get_args(annotation) for kind in _kinds(part)} - {type(None)}
    return {origin or annotation}


def _metavar(kinds: set[Any]) -> str:
    if kinds == {int, float}:
        return "SHARE|N"
    if kinds == {int}:
        return "N"
    if kinds == {float}:
        return "NUMBER"
    chosen = [kind for kind in kinds if get_origin(kind) is Literal]
    if chosen:
        return "|".join(get_args(chosen[0]))
    return next((word for kind, word in _METAVARS if kind in kinds), "TEXT")
