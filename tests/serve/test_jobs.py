"""Jobs over the wire: what may be asked for, what is made of it, and every move between the states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hone.registry.leases import claim_job, renew_lease, succeed_job
from hone.serve.hyperparameters import auto_epochs
from hone.types import JsonDict
from tests.serve.conftest import rows, upload

JOBS = "/v1/fine_tuning/jobs"


def submit(client: TestClient, *, count: int = 12, **asked: Any) -> JsonDict:
    """Submit a job on fresh rows and give it as it stands after its files were validated."""
    body = {"model": "small", "training_file": upload(client, rows(count)), **asked}
    answered = client.post(JOBS, json=body)
    assert answered.status_code == 200, answered.text
    return dict(client.get(f"{JOBS}/{answered.json()['id']}").json())


def messages(client: TestClient, job_id: str) -> list[str]:
    """The messages of a job's events, oldest first."""
    return [one["message"] for one in client.get(f"{JOBS}/{job_id}/events?limit=100").json()["data"]][::-1]


def test_a_job_as_the_client_sees_it(client: TestClient) -> None:
    job = submit(client, metadata={"team": "a"}, suffix="my bot", seed=7)
    auto = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
    assert job.pop("id").startswith("ftjob-")
    assert job.pop("training_file").startswith("file-")
    assert isinstance(job.pop("created_at"), int)
    assert job == {
        "object": "fine_tuning.job", "status": "queued", "model": "small", "hyperparameters": auto,
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto}}, "seed": 7,
        "metadata": {"team": "a"}, "organization_id": "org-hone", "result_files": [], "integrations": [],
        "error": None, "estimated_finish": None, "fine_tuned_model": None, "finished_at": None,
        "trained_tokens": None, "validation_file": None,
    }  # fmt: skip


CHECK = {
    "type": "string_check", "name": "same", "input": "{{sample.output_text}}", "reference": "{{item.reference_answer}}",
    "operation": "eq",
}  # fmt: skip
JUDGE = {
    "type": "score_model", "name": "judge", "model": "small", "input": [{"role": "user", "content": "Good?"}],
    "range": [0, 1],
}  # fmt: skip


def graded(grader: JsonDict, **further: Any) -> JsonDict:
    """The part of a request that asks for reinforcement."""
    return {"method": {"type": "reinforcement", "reinforcement": {"grader": grader, **further}}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"model": "unknown"}, "model"),
        ({"training_file": "file-nowhere"}, "training_file"),
        ({"validation_file": "file-nowhere"}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"metadata": {str(place): "" for place in range(17)}}, "metadata"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta"),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 1}}}},
            "method.supervised.hyperparameters.beta",
        ),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader"),
        (graded({}), "grader.type"),
        (graded({**CHECK, "operation": "ge"}), "grader.operation"),
        (graded(CHECK, response_format={"type": "json_object"}), "method.reinforcement.response_format"),
        (
            graded(CHECK, hyperparameters={"compute_multiplier": 11}),
            "method.reinforcement.hyperparameters.compute_multiplier",
        ),
        ({"n_epochs": 3}, "n_epochs"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_done_is_400_and_names_the_parameter(client: TestClient, asked: JsonDict, param: str) -> None:
    body = {"model": "small", "training_file": upload(client, rows(12)), **asked}
    answered = client.post(JOBS, json=body)
    assert answered.status_code == 400
    assert answered.json()["error"]["param"] == param
    assert client.get(JOBS).json()["data"] == []


def test_a_model_that_is_not_served_is_refused_in_the_api_s_words(client: TestClient) -> None:
    answered = client.post(JOBS, json={"model": "gpt-x", "training_file": upload(client, rows(12))})
    assert answered.json()["error"]["message"] == "Model gpt-x is not available for fine-tuning or does not exist."


def test_too_few_examples_fail_the_job(client: TestClient) -> None:
    job = submit(client, count=7)
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "invalid_n_examples",
        "message": "Training file has 7 example(s), but must have at least 10 examples",
        "param": "training_file",
    }
    assert messages(client, job["id"])[-1] == job["error"]["message"]


def test_every_bad_row_is_named(client: TestClient) -> None:
    bad = b'{"messages": []}\n' + rows(12) + b'{"messages": [{"role": "user", "content": "?"}]}\n'
    job_id = client.post(JOBS, json={"model": "small", "training_file": upload(client, bad)}).json()["id"]
    job = client.get(f"{JOBS}/{job_id}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_training_file")
    assert "Line 1: " in job["error"]["message"]
    assert "Line 14: " in job["error"]["message"]


def test_a_file_of_another_purpose_is_refused(client: TestClient) -> None:
    identity = upload(client, rows(12), purpose="batch")
    answered = client.post(JOBS, json={"model": "small", "training_file": identity})
    assert (answered.status_code, answered.json()["error"]["param"]) == (400, "training_file")


def test_the_same_key_makes_one_job(client: TestClient) -> None:
    body = {"model": "small", "training_file": upload(client, rows(12))}
    key = {"Idempotency-Key": "k1"}
    made = {client.post(JOBS, json=body, headers=key).json()["id"] for _ in range(3)}
    assert len(made) == 1
    other = client.post(JOBS, json={**body, "suffix": "other"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert client.post(JOBS, json=body).json()["id"] not in made
    assert len(client.get(JOBS).json()["data"]) == 2


def test_lists_keep_what_has_the_metadata(client: TestClient) -> None:
    one = submit(client, metadata={"team": "a", "x": "1"})["id"]
    two = submit(client, metadata={"team": "b"})["id"]
    submit(client)
    found = client.get(JOBS, params={"metadata[team]": "a"}).json()["data"]
    assert [job["id"] for job in found] == [one]
    assert client.get(JOBS, params={"metadata[team]": "a", "metadata[x]": "2"}).json()["data"] == []
    page = client.get(JOBS, params={"limit": 1, "after": two}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([one], False)


def test_an_unknown_job_is_404_everywhere(client: TestClient) -> None:
    for method, path in [
        ("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/cancel"), ("POST", "/pause"),
        ("POST", "/resume"),
    ]:  # fmt: skip
        answered = client.request(method, f"{JOBS}/ftjob-x{path}")
        assert answered.status_code == 404
        error = answered.json()["error"]
        assert (error["code"], error["message"]) == ("fine_tune_not_found", "Could not find fine tune: ftjob-x")


def test_cancelling_ends_a_job_whatever_it_does_and_may_be_repeated(client: TestClient, hone_home: Path) -> None:
    job_id = submit(client)["id"]
    lease = claim_job(hone_home, "worker", seconds=60, most_running=1)
    assert lease is not None
    first, second = (client.post(f"{JOBS}/{job_id}/cancel") for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert first.json()["status"] == "cancelled"
    assert renew_lease(lease) == "lost"
    assert not succeed_job(lease, model="ft:x", version="x@1", trained_tokens=1, result_file=None)
    assert client.get(f"{JOBS}/{job_id}").json()["fine_tuned_model"] is None
    assert messages(client, job_id).count("The job has been cancelled") == 1
    for move in ("pause", "resume"):
        assert client.post(f"{JOBS}/{job_id}/{move}").status_code == 400


def test_a_finished_job_cannot_be_cancelled_and_the_status_is_never_409(client: TestClient, hone_home: Path) -> None:
    job_id = submit(client)["id"]
    lease = claim_job(hone_home, "worker", seconds=60, most_running=1)
    assert lease is not None
    assert succeed_job(lease, model="ft:x", version="x@1", trained_tokens=5, result_file=None)
    for move in ("cancel", "pause", "resume"):
        answered = client.post(f"{JOBS}/{job_id}/{move}")
        assert (answered.status_code, answered.json()["error"]["code"]) == (400, "invalid_job_state")


def test_pausing_answers_with_the_state_before(client: TestClient) -> None:
    job_id = submit(client)["id"]
    assert client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "queued"
    assert client.get(f"{JOBS}/{job_id}").json()["status"] == "paused"
    assert client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "paused"
    assert client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "queued"
    assert messages(client, job_id)[-2:] == [
        "The job has been paused",
        "The job has been resumed and waits for a worker",
    ]


def test_a_running_job_is_asked_to_pause_and_may_be_told_to_go_on(client: TestClient, hone_home: Path) -> None:
    job_id = submit(client)["id"]
    lease = claim_job(hone_home, "worker", seconds=60, most_running=1)
    assert lease is not None
    assert client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "running"
    assert renew_lease(lease) == "pause"
    assert client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "running"
    assert renew_lease(lease) == "held"


def test_checkpoints_and_the_model_of_a_finished_job(client: TestClient, hone_home: Path) -> None:
    job_id = submit(client)["id"]
    lease = claim_job(hone_home, "worker", seconds=60, most_running=1)
    assert lease is not None
    succeed_job(
        lease, model="ft:small:hone::abc", version="x@1", trained_tokens=5, result_file=None,
        checkpoints=((10, {"step": 10, "train_loss": 1.5}), (20, {"step": 20, "train_loss": 1.0})),
    )  # fmt: skip
    found = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    assert [(one["step_number"], one["fine_tuned_model_checkpoint"]) for one in found] == [
        (20, "ft:small:hone::abc:ckpt-step-20"),
        (10, "ft:small:hone::abc:ckpt-step-10"),
    ]
    assert found[1]["metrics"] == {"step": 10, "train_loss": 1.5}
    listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert listed == ["small", "ft:small:hone::abc", *(one["fine_tuned_model_checkpoint"] for one in found[::-1])]
    assert client.get("/v1/models/ft:small:hone::abc:ckpt-step-10").json()["object"] == "model"
    assert client.delete("/v1/models/ft:small:hone::abc").json()["deleted"] is True
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["small"]
    assert client.get("/v1/models/ft:small:hone::abc:ckpt-step-10").status_code == 404


@pytest.mark.parametrize(
    ("examples", "epochs"), [(10, 10), (4, 25), (33, 3), (34, 3), (500, 3), (8333, 3), (8334, 2), (30_000, 1)]
)
def test_auto_epochs_follow_the_rule(examples: int, epochs: int) -> None:
    # n_epochs auto: 3; if 3n < 100 then min(25, 100 // n); if 3n > 25,000 then max(1, 25,000 // n)
    assert auto_epochs(examples) == epochs


def test_the_older_place_of_hyperparameters_counts(client: TestClient) -> None:
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    job = submit(client, hyperparameters=numbers)
    assert job["hyperparameters"] == numbers
    newer = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5}}}
    job = submit(client, hyperparameters=numbers, method=newer)
    assert job["hyperparameters"]["n_epochs"] == 5


def test_a_reinforcement_job_shows_its_grader_as_it_was_sent(client: TestClient) -> None:
    asked = graded(JUDGE, hyperparameters={"eval_interval": 5})
    rows_asked = b'{"messages": [{"role": "user", "content": "?"}], "reference_answer": "!"}\n' * 12
    body = {"model": "small", "training_file": upload(client, rows_asked), **asked}
    job = client.post(JOBS, json=body).raise_for_status().json()
    assert job["method"]["reinforcement"]["grader"] == JUDGE
    assert job["hyperparameters"]["eval_interval"] == 5
    assert client.get(f"{JOBS}/{job['id']}").json()["status"] == "queued", "rows need no answer"


def test_a_grader_asks_only_models_that_are_served(client: TestClient) -> None:
    body = {"model": "small", "training_file": upload(client, rows(12))}
    answered = client.post(JOBS, json={**body, **graded({**JUDGE, "model": "http://127.0.0.1:1/v1#a"})})
    assert (answered.status_code, answered.json()["error"]["code"]) == (404, "model_not_found")


def test_programs_of_graders_are_refused_unless_the_server_was_told_to_run_them(client: TestClient) -> None:
    program = {"type": "python", "name": "own", "source": "def grade(sample, item):\n    return 1.0\n"}
    several = {"type": "multi", "name": "all", "graders": {"own": program, "same": CHECK}, "calculate_output": "own"}
    for grader in (program, several):
        body = {"model": "small", "training_file": upload(client, rows(12)), **graded(grader)}
        answered = client.post(JOBS, json=body)
        assert (answered.status_code, answered.json()["error"]["code"]) == (403, "python_graders_disabled")


def compared(count: int) -> bytes:
    """So many rows of two answers, in the form of OpenAI's guide."""
    lines = (
        {
            "input": {"messages": [{"role": "user", "content": f"What is {place} and {place}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"It is {2 * place}."}],
            "non_preferred_output": [{"role": "assistant", "content": "Who knows?"}],
        }
        for place in range(count)
    )
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("method", "content", "code"),
    [
        ("dpo", compared(12), None),
        ("dpo", compared(7), "invalid_n_examples"),
        ("dpo", rows(12), "invalid_training_file"),
        ("supervised", compared(12), "invalid_training_file"),
        ("dpo", b'{"prompt": "?", "completion": "!", "label": true}\n' * 12, "invalid_training_file"),
    ],
)
def test_rows_must_be_of_the_method(client: TestClient, method: str, content: bytes, code: str | None) -> None:
    body = {"model": "small", "training_file": upload(client, content), "method": {"type": method}}
    made = client.post(JOBS, json=body).raise_for_status().json()
    assert ("beta" in made["hyperparameters"]) == (method == "dpo")
    job = client.get(f"{JOBS}/{made['id']}").json()
    assert job["method"]["type"] == method
    assert job["status"] == ("failed" if code else "queued")
    assert (job["error"] or {}).get("code") == code
