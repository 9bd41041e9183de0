"""Jobs submitted by many clients while servers and workers are killed: each done once, none lost.

    python -m benchmarks.submissions --jobs 1000 --clients 50

Real servers, real workers, a real registry; only the training is a stand-in that takes a few milliseconds, so that a
thousand jobs fit into minutes. A client sends each submission until it is answered, with one idempotency key.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hone.registry.jobs import list_events, list_jobs
from hone.registry.leases import Lease, succeed_job, tell_job
from hone.serve.worker import Heartbeat, work

LEASE_SECONDS = 1.5
MOST_RUNNING = 3


@dataclass
class Outcome:
    """What was seen.

    Args:
        submitted: job ids by the key of their submission.
        kills: of servers and of workers.
        problems: sentences; none where all is well.
        seconds: in all.
    """

    submitted: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main() -> int:
    """Try it and print what was seen; 1 where a job was lost or done twice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-between-kills", type=float, default=3.0)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    home = Path(os.environ.get("HONE_HOME", ""))
    if options.serve:
        _serve(home, options.serve)
    elif options.work:
        work(home, _stand_in, most_running=MOST_RUNNING, lease_seconds=LEASE_SECONDS)
    else:
        with tempfile.TemporaryDirectory() as folder:
            outcome = submissions(
                Path(folder), jobs=options.jobs, clients=options.clients, seed=options.seed,
                seconds_between_kills=options.seconds_between_kills,
            )  # fmt: skip
        print(
            f"{len(outcome.submitted)} jobs from {options.clients} clients in {outcome.seconds:.0f} s, "
            f"{outcome.kills['server']} servers and {outcome.kills['worker']} workers killed, "
            f"{len(outcome.problems)} problems"
        )
        print("\n".join(outcome.problems))
        return 1 if outcome.problems else 0
    return 0


def submissions(
    home: Path, *, jobs: int, clients: int, seed: int = 0, seconds_between_kills: float = 3.0, patience: float = 1800.0
) -> Outcome:
    """Submit jobs, kill what does them, and look at what is left.

    Args:
        home: an empty folder.
        jobs: submissions.
        clients: that submit at the same time.
        seed: of what is killed when.
        seconds_between_kills: on average.
        patience: seconds after which jobs that are not done count as lost.
    """
    outcome, began = Outcome(), time.monotonic()
    port = _free_port()
    with _killed(home, port, outcome, random.Random(seed), seconds_between_kills) as address:
        training_file = _upload(address, began + patience)
        keys = [f"submission-{place}" for place in range(jobs)]
        with ThreadPoolExecutor(clients) as pool:
            found = pool.map(lambda key: _submit(address, key, training_file, began + patience), keys)
            outcome.submitted = dict(zip(keys, found, strict=True))
        while time.monotonic() - began < patience and any(job.status != "succeeded" for job in list_jobs(home)):
            time.sleep(0.5)
    outcome.problems += _problems(home, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def _problems(home: Path, outcome: Outcome) -> Iterator[str]:
    there = list_jobs(home)
    by_key = Counter(job.idempotency_key for job in there)
    for key, job_id in outcome.submitted.items():
        if by_key[key] != 1:
            yield f"{key} made {by_key[key]} jobs"
        if job_id not in {job.id for job in there}:
            yield f"{key}: {job_id} is not there"
    if len(there) != len(outcome.submitted):
        yield f"{len(there)} jobs are there, {len(outcome.submitted)} were submitted"
    for job in there:
        messages = Counter(event.message for event in list_events(home, job.id))
        done = messages["The job has successfully completed"]
        if job.status != "succeeded" or done != 1:
            yield f"{job.id} is {job.status} and was completed {done} times"
        if messages["trained"] != 1:
            yield f"{job.id} was trained to its end {messages['trained']} times"


def _stand_in(lease: Lease, beat: Heartbeat) -> None:
    """Instead of a training: a few steps, then the same end as a real one's."""
    for step in range(1, 4):
        time.sleep(0.01)
        told = tell_job(lease, events=((f"ftevent-{lease.job.id}-{step}", f"Step {step}/3", {"step": step}),))
        if not told:
            return
    if tell_job(lease, events=((f"ftevent-{lease.job.id}-end", "trained", None),)):
        beat.end()
        succeed_job(
            lease, model=f"ft:small:hone::{lease.job.id}", version="small@1", trained_tokens=3, result_file=None
        )


def _serve(home: Path, port: int) -> None:
    # here and not above: a worker, of which many start, needs none of it
    from hone.serve.app import create_app
    from hone.serve.server import GracefulServer, bind
    from hone.serve.settings import LOOPBACK_HOSTS, ServerSettings
    from hone.serve.supervisor import Supervisor

    settings = ServerSettings(home=home, bases={"small": "small"}, hosts=LOOPBACK_HOSTS)
    command = [sys.executable, "-m", "benchmarks.submissions", "--work"]
    with Supervisor(home, command, most_running=MOST_RUNNING, seconds=0.2):
        GracefulServer(create_app(settings)).serve_on(bind("127.0.0.1", port))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def _killed(home: Path, port: int, outcome: Outcome, rng: random.Random, seconds: float) -> Iterator[str]:
    """A server's address; the server and the workers die at random, and the server is started again."""
    over = threading.Event()
    environment = {**os.environ, "HONE_HOME": str(home)}
    command = [sys.executable, "-m", "benchmarks.submissions", "--serve", str(port)]
    servers = [subprocess.Popen(command, env=environment)]
    while not _answers(port):
        if servers[0].poll() is not None:
            raise RuntimeError(f"the server ended by itself with {servers[0].returncode}")
        time.sleep(0.1)

    def kill_at_random() -> None:
        while not over.wait(rng.uniform(0.5, 1.5) * seconds):
            if servers[-1].poll() is not None:
                outcome.problems.append(f"a server ended by itself with {servers[-1].returncode}")
                return
            if not _answers(port):
                continue  # it is still starting, and would never come to answer
            if outcome.kills["worker"] > outcome.kills["server"] or rng.random() < 0.2:
                servers[-1].kill()
                servers[-1].wait()
                outcome.kills["server"] += 1
                servers.append(subprocess.Popen(command, env=environment))
            else:
                outcome.kills["worker"] += _kill_worker(home)

    killer = threading.Thread(target=kill_at_random)
    killer.start()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        over.set()
        killer.join()
        servers[-1].terminate()
        servers[-1].wait()
        while any(job.status == "running" and (job.lease_until or 0) > time.time() for job in list_jobs(home)):
            time.sleep(0.1)


def _answers(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _kill_worker(home: Path) -> int:
    """Kill the worker of a running job; how many were killed."""
    for job in list_jobs(home):
        if job.status == "running" and job.lease_owner and (job.lease_until or 0) > time.time():
            # the worker's name is HOST-PID-TOKEN; a host's name may hold the sign too
            with suppress(ProcessLookupError):
                os.kill(int(job.lease_owner.rsplit("-", 2)[1]), signal.SIGKILL)
                return 1
    return 0


def _upload(address: str, deadline: float) -> str:
    import httpx

    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    content = f"{json.dumps(row, ensure_ascii=False)}\n".encode() * 10
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            answered = httpx.post(
                f"{address}/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"}, timeout=30
            )
            return str(answered.raise_for_status().json()["id"])
        time.sleep(0.2)
    raise TimeoutError("no server has taken the training file")


def _submit(address: str, key: str, training_file: str, deadline: float) -> str:
    """Send one submission until it is answered."""
    import httpx

    body = {"model": "small", "training_file": training_file}
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            answered = httpx.post(
                f"{address}/fine_tuning/jobs", json=body, headers={"Idempotency-Key": key}, timeout=30
            )
            if answered.status_code == 200:
                return str(answered.json()["id"])
        time.sleep(0.1)
    raise TimeoutError(f"no server has answered {key}")


if __name__ == "__main__":
    sys.exit(main())
