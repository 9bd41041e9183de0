"""Jobs that a worker does with the real recipe on a tiny base: to the end, paused, cancelled, and after its death."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.cli.signals import stops_after_step
from hone.engine.events import Event, Recorder, Tee
from hone.registry.jobs import cancel_job, pause_job
from hone.registry.leases import Lease
from hone.registry.versions import resolve_version
from hone.serve.training import train_job
from hone.serve.worker import Heartbeat, work
from hone.types import JsonDict
from tests.recipe.conftest import evaluate_in_this_process, row
from tests.serve.conftest import settings_of, upload, whole_app
from tests.serve.test_openai_script import pretrained_tiny
from tests.tiny import save_tiny

pytestmark = pytest.mark.slow

JOBS = "/v1/fine_tuning/jobs"
# What makes a tiny random model learn the rows: ten times the rate that hone would choose, and twelve passes.
NUMBERS = {"n_epochs": 12, "learning_rate_multiplier": 10}


class Killed(BaseException):
    """A worker's death, as far as one process can play it: nothing is written after it."""


@dataclass
class Workshop:
    """A server with a tiny base in an empty home."""

    home: Path
    base: Path
    client: TestClient

    def submit(self, **asked: object) -> str:
        """Submit a job on forty rows that can be learnt."""
        lines = [json.dumps(row(number), ensure_ascii=False) for number in range(40)]
        file_id = upload(self.client, "\n".join(lines).encode(), name="questions.jsonl")
        body = {"model": "small", "training_file": file_id, "hyperparameters": NUMBERS, **asked}
        return str(self.client.post(JOBS, json=body).raise_for_status().json()["id"])

    def job(self, job_id: str) -> JsonDict:
        """The job as the API shows it."""
        return dict(self.client.get(f"{JOBS}/{job_id}").json())

    def messages(self, job_id: str) -> list[str]:
        """What happened to it, oldest first."""
        found = self.client.get(f"{JOBS}/{job_id}/events", params={"limit": 1000}).json()["data"]
        return [one["message"] for one in found][::-1]

    def work(self, listener: Recorder | None = None, *, lease_seconds: float = 60.0) -> int:
        """Do what waits, in this process."""

        def train(lease: Lease, beat: Heartbeat) -> None:
            with stops_after_step() as should_stop:
                heard = Tee(should_stop, *([listener] if listener else []))
                train_job(
                    lease, beat, bases={"small": str(self.base)}, recorder=heard, should_stop=should_stop,
                    note=lambda _text: None,
                )  # fmt: skip

        return work(self.home, train, lease_seconds=lease_seconds)

    def adapter(self, job_id: str) -> bytes:
        """The weights that a job left."""
        folder = self.home / "runs" / job_id / "adapter"
        return (folder / "adapter_model.safetensors").read_bytes()


@dataclass
class AtStep:
    """A recorder that does something once at a step, and then gives the heartbeat time to notice."""

    step: int
    act: Callable[[], object]
    done: bool = False

    def record(self, event: Event) -> None:
        if event.kind == "step" and event.data["step"] >= self.step:
            if not self.done:
                self.done = True
                self.act()
            time.sleep(0.1)


@pytest.fixture
def workshop(hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)
    base = save_tiny(tmp_path / "tiny", max_position_embeddings=512)
    settings = settings_of(hone_home, bases={"small": str(base)})
    return Workshop(hone_home, base, TestClient(whole_app(settings)))


def test_a_job_becomes_a_model_that_answers(workshop: Workshop) -> None:
    job_id = workshop.submit(suffix="My Bot")
    assert workshop.work() == 1
    job = workshop.job(job_id)
    assert job["error"] is None
    assert job["status"] == "succeeded"
    assert job["hyperparameters"] == {"n_epochs": 12, "batch_size": 4, "learning_rate_multiplier": 10.0}
    model = f"ft:small:hone:my-bot:{job_id[-8:]}"
    assert job["fine_tuned_model"] == model
    assert job["trained_tokens"] > 0
    version = resolve_version(workshop.home, "my-bot")
    assert (version.reference, version.status) == ("my-bot@1", "proven")
    messages = workshop.messages(job_id)
    assert messages[-2:] == [f"New fine-tuned model created: {model}", "The job has successfully completed"]
    assert any(message.startswith("Comparison with the base: ") for message in messages)
    _check_results(workshop, job)
    _check_checkpoints(workshop, job)
    asked = {"messages": [{"role": "user", "content": row(3)["prompt"]}], "temperature": 0, "max_tokens": 12}
    with workshop.client as client:
        answered = client.post("/v1/chat/completions", json={"model": model, **asked}).json()
    assert answered["choices"][0]["message"]["content"] == row(3)["completion"]
    assert answered["model"] == model


def test_a_dpo_job_prefers_what_was_preferred(workshop: Workshop) -> None:
    pretrained_tiny(workshop.base)  # which answers, and ends its answers
    lines = [
        {
            "input": {"messages": [{"role": "user", "content": one["prompt"]}]},
            "preferred_output": [{"role": "assistant", "content": one["completion"]}],
            "non_preferred_output": [{"role": "assistant", "content": "nobody can tell you"}],
        }
        for one in map(row, range(40))
    ]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    numbers = {"n_epochs": 6, "learning_rate_multiplier": 10, "beta": "auto"}
    job_id = workshop.submit(
        training_file=upload(workshop.client, content), hyperparameters=None,
        method={"type": "dpo", "dpo": {"hyperparameters": numbers}},
    )  # fmt: skip
    assert workshop.work() == 1
    job = workshop.job(job_id)
    assert job["error"] is None
    assert job["status"] == "succeeded"
    assert job["method"]["dpo"]["hyperparameters"] == job["hyperparameters"]
    assert {**numbers, "beta": 0.1}.items() <= job["hyperparameters"].items()
    steps = [message for message in workshop.messages(job_id) if "training loss" in message]
    assert steps[0].endswith("=0.69"), "ln 2: the reference is the base"
    assert float(steps[-1].rpartition("=")[2]) < 0.5


def test_a_reinforcement_job_earns_more_of_its_grader(workshop: Workshop) -> None:
    pretrained_tiny(workshop.base)  # which answers, and ends its answers
    lines = [
        {"messages": [{"role": "user", "content": one["prompt"]}], "reference_answer": one["completion"]}
        for one in map(row, range(40))
    ]
    grader = {
        "type": "text_similarity", "name": "like", "input": "{{ sample.output_text }}",
        "reference": "{{ item.reference_answer }}", "evaluation_metric": "rouge_l",
    }  # fmt: skip
    numbers = {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 10, "compute_multiplier": 0.5}
    job_id = workshop.submit(
        training_file=upload(workshop.client, "\n".join(map(json.dumps, lines)).encode()), hyperparameters=None,
        method={"type": "reinforcement", "reinforcement": {
            "grader": grader, "hyperparameters": {**numbers, "eval_samples": 2},
        }},
    )  # fmt: skip
    assert workshop.work() == 1
    job = workshop.job(job_id)
    assert job["error"] is None
    assert job["status"] == "succeeded"
    assert job["method"]["reinforcement"]["grader"] == grader
    assert {**numbers, "eval_samples": 2}.items() <= job["hyperparameters"].items()
    messages = workshop.messages(job_id)
    assert "Not used: eval_samples; the model is compared with its base once it is trained" in messages
    rewards = [float(one.rpartition("=")[2]) for one in messages if "mean reward" in one]
    assert len(rewards) >= 8
    assert sum(rewards[-3:]) > sum(rewards[:3])


def _check_results(workshop: Workshop, job: JsonDict) -> None:
    (file_id,) = job["result_files"]
    content = workshop.client.get(f"/v1/files/{file_id}/content").text
    found = list(csv.DictReader(io.StringIO(content)))
    assert list(found[0]) == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    steps = [
        message for message in workshop.messages(job["id"]) if message.startswith("Step ") and "training" in message
    ]
    assert [int(one["step"]) for one in found] == list(range(1, len(steps) + 1))
    assert float(found[-1]["train_loss"]) < float(found[0]["train_loss"])
    assert any(one["valid_loss"] for one in found)


def _check_checkpoints(workshop: Workshop, job: JsonDict) -> None:
    found = workshop.client.get(f"{JOBS}/{job['id']}/checkpoints").json()["data"]
    assert len(found) == 3
    steps = [one["step_number"] for one in found]
    assert steps == sorted(steps, reverse=True)
    assert all(one["metrics"]["train_loss"] > 0 for one in found)
    served = [one["id"] for one in workshop.client.get("/v1/models").json()["data"]]
    weights = set()
    for one in found:
        assert one["fine_tuned_model_checkpoint"] == f"{job['fine_tuned_model']}:ckpt-step-{one['step_number']}"
        assert one["fine_tuned_model_checkpoint"] in served
        folder = workshop.home / "runs" / job["id"] / "epochs" / f"step-{one['step_number']:06d}"
        weights.add((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert len(weights) == 3
    assert not (workshop.home / "runs" / job["id"] / "kept-weights").exists()


def test_a_job_that_was_paused_or_lost_its_worker_ends_as_one_that_was_not(workshop: Workshop) -> None:
    whole, paused, lost = (workshop.submit() for _ in range(3))
    assert workshop.client.post(f"{JOBS}/{paused}/pause").status_code == 200
    assert workshop.client.post(f"{JOBS}/{lost}/pause").status_code == 200
    workshop.work()
    assert workshop.job(whole)["status"] == "succeeded"

    workshop.client.post(f"{JOBS}/{paused}/resume")
    workshop.work(AtStep(20, lambda: pause_job(workshop.home, paused)), lease_seconds=2.0)
    assert workshop.job(paused)["status"] == "paused"
    assert workshop.work() == 0
    workshop.client.post(f"{JOBS}/{paused}/resume")
    assert workshop.work() == 1
    assert workshop.job(paused)["status"] == "succeeded"

    def die() -> None:
        raise Killed

    workshop.client.post(f"{JOBS}/{lost}/resume")
    with pytest.raises(Killed):
        workshop.work(AtStep(20, die), lease_seconds=2.0)
    assert workshop.job(lost)["status"] == "running"
    time.sleep(2.1)
    assert workshop.work() == 1
    assert workshop.job(lost)["status"] == "succeeded"

    assert "The job's worker was lost; another goes on from the last checkpoint" in workshop.messages(lost)
    for job_id in (paused, lost):
        assert workshop.adapter(job_id) == workshop.adapter(whole)
        messages = workshop.messages(job_id)
        steps = [message for message in messages if "training loss" in message]
        assert steps == [message for message in workshop.messages(whole) if "training loss" in message]
        assert workshop.job(job_id)["trained_tokens"] == workshop.job(whole)["trained_tokens"]


def test_a_cancelled_run_stops_and_makes_no_model(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.work(AtStep(5, lambda: cancel_job(workshop.home, job_id)), lease_seconds=2.0)
    job = workshop.job(job_id)
    assert (job["status"], job["fine_tuned_model"]) == ("cancelled", None)
    assert len([message for message in workshop.messages(job_id) if "training loss" in message]) < 60
    assert [one["id"] for one in workshop.client.get("/v1/models").json()["data"]] == ["small"]


def test_what_is_not_proven_does_not_succeed(workshop: Workshop) -> None:
    job_id = workshop.submit(hyperparameters={"n_epochs": 1})
    workshop.work()
    job = workshop.job(job_id)
    assert (job["status"], job["error"]["code"], job["fine_tuned_model"]) == ("failed", "unproven", None)
    assert "the model ends its answers" in job["error"]["message"]
    assert not [one for one in workshop.client.get("/v1/models").json()["data"] if one["id"].startswith("ft:")]
