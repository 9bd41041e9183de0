"""Options of commands, made from the fields of a config: name, help and default are written there and nowhere else.

A command takes them as ``**given`` and hands them to :func:`load_options`, which checks all of them together. None
means that an option was not given.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel

from hone.config import load_config, option_help
from hone.data.source import require_source
from hone.errors import HoneError
from hone.home import hone_home

__all__ = ["ConfigFileOption", "JsonOption", "load_options", "options_of", "require_model"]

_Config = TypeVar("_Config", bound=BaseModel)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, for programs; all else on stderr.")
]
ConfigFileOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of options, as `epochs: 3`; the command line wins."),
]

# What a person decides about stands first in the help, before numbers that are chosen well without him.
_FIRST = (
    "against",
    "arms",
    "base",
    "documents",
    "eval",
    "instruction",
    "limit",
    "map",
    "model",
    "name",
    "output",
    "system",
)
# A longer list of names would not fit into the help's column; the option's text then says them.
_LONGEST_METAVAR = 40
_METAVARS: tuple[tuple[type, str], ...] = ((Path, "PATH"), (dict, "COLUMNS"), (tuple, "NAMES"), (str, "TEXT"))


def options_of(
    config_class: type[BaseModel], *, arguments: Collection[str] = (), only: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's ``**given`` by one option for each field of a config.

    Args:
        config_class: the config; its fields' descriptions are the help.
        arguments: fields that are given by place and not by name. They may be left out here, because a config file
            or a resumed run can hold them: the config says what is missing.
        only: the fields that this command has; all unless given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        made = _parameters(config_class, arguments, only)
        ordered = [made[name] for name in arguments]
        ordered += [one for name, one in made.items() if name in _FIRST and name not in arguments]
        ordered += [*own, *(one for name, one in made.items() if name not in _FIRST and name not in arguments)]

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            try:
                command(**given)
            except HoneError as error:
                _name_as_given(error, given)
                raise

        # typer reads a command's options from its signature
        vars(with_options)["__signature__"] = signature.replace(parameters=ordered)
        return with_options

    return decorate


def load_options(
    context: typer.Context, config_class: type[_Config], given: Mapping[str, Any], *, file: Path | None = None
) -> _Config:
    """The config of a command; what is wrong is told in the words of its command line, with its own help.

    Args:
        context: the command's.
        config_class: the config to make.
        given: the options of the command line by name, None where not given.
        file: of ``--config``.

    Raises:
        ConfigError: as of :func:`hone.config.load_config`.
        DataError: the rows' file is missing; told before torch is imported, which takes seconds.
    """
    command = context.command_path.partition(" ")[2]
    config = load_config(config_class, given, file=file, command=command, words=_words(context))
    if (data := getattr(config, "data", None)) is not None:
        require_source(data)
    return config


def require_model(reference: str) -> None:
    """Stop where nothing is named so, before torch is imported, which takes seconds.

    Args:
        reference: a version, an alias, a run's folder or a base.

    Raises:
        VersionError: there is no such thing.
    """
    from hone.recipe.finding import find_run

    find_run(reference, hone_home(), note=lambda text: None)


def _name_as_given(error: HoneError, given: Mapping[str, Any]) -> None:
    """Let an error whose place is an option name it as the command line does, unless a config file gave it."""
    if error.where is not None and (given.get("config_file") is None or given.get(error.where) is not None):
        error.where = _words(given["context"]).get(error.where, error.where)


def _words(context: typer.Context) -> dict[str, str]:
    """What the user writes for each parameter: ``--max-steps``, or ``DATA`` for one that is given by place."""
    words = {}
    for parameter in context.command.params:
        by_place = parameter.param_type_name == "argument"
        words[str(parameter.name)] = str(parameter.name).upper() if by_place else parameter.opts[0]
    return words


def _parameters(
    config_class: type[BaseModel], arguments: Collection[str], only: Collection[str] | None
) -> dict[str, inspect.Parameter]:
    made = {}
    for (name, text), field in zip(option_help(config_class).items(), config_class.model_fields.values(), strict=True):
        if only is not None and name not in only:
            continue
        kinds = _kinds(field.annotation)
        annotation: Any
        if name in arguments:
            annotation = Annotated[str | None, typer.Argument(help=text, metavar=name.upper(), show_default=False)]
        elif bool in kinds:
            switch = f"--{_dashed(name)}" + (f"/--no-{_dashed(name)}" if field.default else "")
            annotation = Annotated[bool | None, typer.Option(switch, help=text, show_default=False)]
        else:
            option = typer.Option(f"--{_dashed(name)}", help=text, metavar=_metavar(kinds), show_default=False)
            annotation = Annotated[str | None, option]
        made[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    return made


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
        names = "|".join(get_args(chosen[0]))
        return names if len(names) <= _LONGEST_METAVAR else "NAME"
    return next((word for kind, word in _METAVARS if kind in kinds), "TEXT")
