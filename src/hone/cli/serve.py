"""``hone serve``: the OpenAI-compatible server, and the workers that it starts."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hone.cli.output import harmless, say
from hone.cli.signals import stops_after_step
from hone.config.schema import DEFAULT_MODEL
from hone.errors import ConfigError, MissingDependencyError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the server imports FastAPI, which `hone --help` does not need
    from hone.registry.leases import Lease
    from hone.serve.settings import ServerSettings
    from hone.serve.worker import Heartbeat

__all__ = ["serve"]

_MEBIBYTE = 2**20


def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")] = 8000,
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=BASE]",
            help="A base that may be asked and fine-tuned; with =, under another name. May be given several times.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the key that requests must carry; made where it is missing."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name under which the server is asked, as api.example.org."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An origin whose pages may change things here, as https://example.org."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Fine-tuning jobs that run at once; 0 starts none.")] = 1,
    most_upload: Annotated[int, typer.Option(min=1, metavar="MIB", help="Largest file that may be uploaded.")] = 512,
    most_requests: Annotated[int, typer.Option(min=1, help="Requests that are answered at once.")] = 256,
    documents: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Documents for questions to NAME, as support@production=docs. May be given several times.",
        ),
    ] = None,
    allow_python_graders: Annotated[
        bool, typer.Option("--allow-python-graders", help="Run graders that are programs, as this user.")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Print a JSON object a line for each request on standard error.")
    ] = False,
    conformance: Annotated[
        bool, typer.Option("--conformance", help="Hold the objects that OpenAI's own client tests ask for; no jobs.")
    ] = False,
    worker: Annotated[
        bool, typer.Option("--worker", help="Do waiting fine-tuning jobs and end, without serving.")
    ] = False,
) -> None:
    """Serve bases, versions and fine-tuning jobs over the OpenAI API."""
    bases = _bases(base)
    if worker:
        _work(bases, most_running=max(1, jobs))
        return
    settings = _settings(
        host, bases, key_file, allow_host or [], allow_origin or [], most_upload * _MEBIBYTE, most_requests,
        allow_python_graders, _documents(documents or []), conformance=conformance,
    )  # fmt: skip
    _serve(settings, host, port, jobs=0 if conformance else jobs, log_json=log_json, conformance=conformance)


def _bases(given: list[str] | None) -> dict[str, str]:
    bases = {}
    for one in given or [DEFAULT_MODEL]:
        name, _, base = one.partition("=")
        if not name or (not base and "=" in one) or ":" in name:
            raise ConfigError(f"{one!r} is no base", where="--base", remedy=f"for example: --base {DEFAULT_MODEL}")
        bases[name] = base or name
    return bases


def _documents(given: list[str]) -> dict[str, Path]:
    found = {}
    for one in given:
        name, _, folder = one.partition("=")
        if not name or not folder:
            raise ConfigError(
                f"{one!r} attaches no documents", where="--documents", remedy="as --documents support@production=FOLDER"
            )
        found[name] = Path(folder)
    return found


def _settings(
    host: str,
    bases: dict[str, str],
    key_file: Path | None,
    hosts: list[str],
    origins: list[str],
    most_upload_bytes: int,
    most_requests: int,
    run_python_graders: bool,
    documents: dict[str, Path],
    *,
    conformance: bool,
) -> ServerSettings:
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise MissingDependencyError(f"the server needs {missing[0]}", remedy="pip install 'hone-llm[serve]'")
    from hone.serve.conformance import CURSORS, MODELS
    from hone.serve.security import read_key
    from hone.serve.server import is_loopback
    from hone.serve.settings import LOOPBACK_HOSTS, ServerSettings

    key = None
    if key_file is not None or not is_loopback(host):
        path = key_file or hone_home() / "serve" / "key"
        key = read_key(path)
        say(harmless(f"Requests must carry the key in {path}"))
    own = [] if host in ("0.0.0.0", "::") else [f"[{host}]" if ":" in host else host]
    if conformance:
        bases = {**dict.fromkeys(MODELS, next(iter(bases.values()))), **bases}
    return ServerSettings(
        home=hone_home(),
        bases=bases,
        key=key,
        hosts=tuple(name.lower() for name in (*LOOPBACK_HOSTS, *own, *hosts)),
        origins=tuple(origins),
        most_upload_bytes=most_upload_bytes,
        most_requests=most_requests,
        run_python_graders=run_python_graders,
        documents=documents,
        cursors=CURSORS if conformance else frozenset(),
    )


def _serve(settings: ServerSettings, host: str, port: int, *, jobs: int, log_json: bool, conformance: bool) -> None:
    from contextlib import nullcontext

    from hone.serve.answering import answering
    from hone.serve.app import create_app
    from hone.serve.conformance import restore_fixtures
    from hone.serve.inference import InferenceService
    from hone.serve.metrics import Metrics
    from hone.serve.observation import json_line
    from hone.serve.server import GracefulServer, bind
    from hone.serve.supervisor import Supervisor

    def tell(line: JsonDict) -> None:
        if log_json:
            print(json_line(line), file=sys.stderr, flush=True)

    if conformance:
        restore_fixtures(settings, "/")
    listening = bind(host, port)
    shown, number = listening.getsockname()[:2]
    servers: list[GracefulServer] = []
    metrics = Metrics()
    service = InferenceService(settings.home, note=lambda text: say(harmless(text)))
    answers = answering(settings, service, metrics=metrics, lenient=conformance)
    app = create_app(
        settings,
        answering=[answers.router],
        answer_chat=answers.answer_chat,
        lifespan=answers.lifespan,
        metrics=metrics,
        tell=tell,
        is_ready=lambda: bool(servers) and servers[0].is_ready,
        before_request=(lambda path: restore_fixtures(settings, path)) if conformance else None,
    )
    servers.append(GracefulServer(app))
    workers = Supervisor(settings.home, _worker_command(settings, jobs), most_running=jobs) if jobs else nullcontext()
    with workers:
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{number}/v1"
        tell({"event": "listening", "address": address})
        say(harmless(f"Listening on {address} with {', '.join(settings.bases)}. Ctrl-C ends."))
        servers[0].serve_on(listening)
    tell({"event": "stopped"})


def _worker_command(settings: ServerSettings, jobs: int) -> list[str]:
    words = [sys.executable, "-m", "hone", "serve", "--worker", f"--jobs={jobs}"]
    return [*words, *(f"--base={name}={base}" for name, base in settings.bases.items())]


def _work(bases: dict[str, str], *, most_running: int) -> None:
    from hone.serve.training import train_job
    from hone.serve.worker import work

    def train(lease: Lease, beat: Heartbeat) -> None:
        with stops_after_step() as should_stop:
            train_job(lease, beat, bases=bases, recorder=should_stop, should_stop=should_stop, note=say)

    # one job a process: the next one begins with all of the memory
    work(hone_home(), train, most_running=most_running, most_jobs=1)
