"""``hone train``: training alone, or going on with it; and the job that ``hone run`` shares with it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hone.cli.launch import (
    LOST_PROCESS_CODE,
    check_devices,
    command_line,
    follow_launcher,
    launch,
    was_launched,
)
from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of
from hone.cli.output import print_json, result_stream
from hone.cli.progress import reported
from hone.cli.signals import stops_after_step
from hone.cli.summary import print_run, print_training
from hone.config import RunConfig, TrainConfig
from hone.engine.events import Tee
from hone.errors import ConfigError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:
    from hone.registry.runs import RunFolder

__all__ = ["do_job", "train"]

# Options that say on what a run computes and not what: a resumed run may have others than it was begun with.
_OF_THE_MACHINE = ("devices", "shard")


@options_of(TrainConfig, arguments=("data",))
def train(
    *,
    context: typer.Context,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the interrupted run in this folder; without DATA.")
    ] = None,
    as_json: JsonOption = False,
    config_file: ConfigFileOption = None,
    **given: Any,
) -> None:
    """Train alone: no comparison, no version.

    The adapter is left in the run's folder; `hone chat` and `hone evaluate` take that folder's name.
    """
    do_job(context, TrainConfig, given, config_file=config_file, resume=resume, as_json=as_json)


def do_job(
    context: typer.Context,
    config_class: type[TrainConfig],
    given: Mapping[str, Any],
    *,
    config_file: Path | None,
    resume: Path | None,
    as_json: bool,
) -> None:
    """Run or train, and print the result.

    Args:
        context: the command's.
        config_class: RunConfig for the whole job, TrainConfig for training alone.
        given: the options of the command line by name, None where not given.
        config_file: a file with further ones.
        resume: the folder of an interrupted run to go on with; its kind then decides which job it is.
        as_json: whether the result is for programs.

    Raises:
        HoneError: bad input, or the job failed.
        Exit: with the verdict's code, where that is not 0.
    """
    if resume is None:
        config, folder = load_options(context, config_class, given, file=config_file), None
    else:
        _refuse_further_options(given, config_file)
        from hone.recipe.run import open_interrupted_run

        on_devices = {name: given[name] for name in _OF_THE_MACHINE if given.get(name) is not None}
        folder, config = open_interrupted_run(resume, home=hone_home(), given=on_devices)
    from hone.engine.parallel import LostProcessError, started_in_group

    if config.devices > 1 and not started_in_group():
        check_devices(config.devices, config.device)
        command = "run" if isinstance(config, RunConfig) else "train"
        words = command_line(command, given, config_file=config_file, resume=resume, as_json=as_json)
        code = launch(words, processes=config.devices)
    else:
        try:
            code = _exit_code(_do_here(config, folder, as_json=as_json))
        except LostProcessError as error:
            if not was_launched():
                raise
            raise typer.Exit(LOST_PROCESS_CODE) from error  # the launcher tells which process is the cause
    if code:
        raise typer.Exit(code)


def _do_here(config: TrainConfig, folder: RunFolder | None, *, as_json: bool) -> JsonDict:
    """Do the job in this process, alone or as one of several; print in the first one alone."""
    from hone.engine.parallel import process_group
    from hone.recipe import run as recipe

    if was_launched():
        follow_launcher()
    with (
        stops_after_step() as should_stop,
        process_group(config.device) as parallel,
        result_stream(as_json),
        reported() if parallel.is_first else nullcontext(Tee()) as recorder,
    ):
        told, home = Tee(should_stop, recorder), hone_home()
        if isinstance(config, RunConfig):
            result = recipe.run(
                config, home=home, recorder=told, should_stop=should_stop, resume=folder, parallel=parallel
            )
        else:
            result = recipe.train(
                config, home=home, recorder=told, should_stop=should_stop, resume=folder, parallel=parallel
            )
    if parallel.is_first:
        if as_json:
            print_json(result)
        elif "evaluation" in result:
            print_run(result)
        else:
            print_training(result)
    return result


def _refuse_further_options(given: Mapping[str, Any], config_file: Path | None) -> None:
    allowed = ("data", *_OF_THE_MACHINE)
    names = [
        f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and name not in allowed
    ]
    names += ["DATA"] if given.get("data") is not None else []
    names += ["--config"] if config_file else []
    if names:
        raise ConfigError(
            f"{', '.join(names)} cannot be given together with it",
            where="--resume",
            why="a resumed run goes on with the options that it was begun with, which stand in its config.yaml",
            remedy="leave them out, or begin a new run with them",
        )


def _exit_code(result: JsonDict) -> int:
    verdict = result.get("verdict")
    return int(verdict["exit_code"]) if verdict else 0
