"""On-policy distillation on tiny models: from a model of this machine and over HTTP, resumption, and bad teachers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.config import RunConfig, TrainConfig
from hone.errors import BadInputError, HoneError, InterruptedRunError
from hone.recipe.rollouts import Actor
from hone.recipe.run import open_interrupted_run, run, train
from hone.types import JsonDict, TokenSequence
from tests.recipe.conftest import Listener, read_jsonl, row, write_jsonl
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model with the same tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("teacher") / "other", seed=7, max_position_embeddings=512)


@pytest.fixture
def options(train_options: Callable[..., TrainConfig], teacher: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    data = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": row(number)["prompt"]} for number in range(24)])

    def make(**given: Any) -> TrainConfig:
        small = {"data": str(data), "method": "distill", "teacher": str(teacher), "rollout_tokens": 8, "batch_size": 4,
                 "max_steps": 4, "learning_rate": 2e-2, "epochs": 20, "rank": 16}  # fmt: skip
        return train_options(**{**small, **given})

    return make


class _Scorer(BaseHTTPRequestHandler):
    """Completions that echo log-probabilities, worked out by transformers alone."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)  # type: ignore[attr-defined]
        model, tokenizer = self.server.model, self.server.tokenizer  # type: ignore[attr-defined]
        choices = []
        for index, ids in enumerate(body["prompt"]):
            with torch.no_grad():
                logs_TV = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
            scores = [None, *(float(logs_TV[at, token]) for at, token in enumerate(ids[1:]))]
            tokens = [tokenizer.decode([token]) for token in ids]
            logprobs = {"tokens": [*tokens, "x"], "token_logprobs": [*scores, -0.5]}
            choices.append({"index": index, "text": "", "logprobs": logprobs, "finish_reason": "length"})
        data = json.dumps({"choices": choices[::-1]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def scorer(teacher: Path) -> Iterator[HTTPServer]:
    found = HTTPServer(("127.0.0.1", 0), _Scorer)
    found.asked = []  # type: ignore[attr-defined]
    found.model = AutoModelForCausalLM.from_pretrained(teacher).eval()  # type: ignore[attr-defined]
    found.tokenizer = AutoTokenizer.from_pretrained(teacher)  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def _steps(folder: str | Path) -> list[JsonDict]:
    return [line for line in read_jsonl(Path(folder) / "metrics.jsonl") if line["event"] == "step"]


def test_the_student_comes_near_its_teacher(options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = options(max_steps=30, batch_size=8)
    result = train(config, home=tmp_path / "home", recorder=Listener())
    assert all(invariant["holds"] for invariant in result["proof"]), result["proof"]
    steps = _steps(result["run_dir"])
    assert "reward" not in steps[0]
    assert steps[-1]["kl"] < 0.8 * steps[0]["kl"]
    assert steps[0]["loss"] == pytest.approx(steps[0]["kl"], rel=0.2), "a mean over tokens and one over answers"
    lines = read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")
    assert len(lines) == 30 * 8 * 4
    assert {"reward", "advantage"} & lines[0].keys() == set()
    assert result["training"]["teacher"] == result["training"]["reward"]["name"]


def test_the_first_step_is_the_divergence_that_transformers_gives(
    options: Callable[..., TrainConfig], teacher: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[TokenSequence] = []
    sequence_of = Actor.sequence

    def listening(self: Actor, *given: Any) -> TokenSequence:
        written.append(sequence_of(self, *given))
        return written[-1]

    monkeypatch.setattr(Actor, "sequence", listening)
    result = train(options(max_steps=1), home=tmp_path / "home", recorder=Listener())
    lines = read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (tiny_base, teacher)]
    for line, sequence in zip(lines, written[-len(lines) :], strict=True):
        with torch.no_grad():
            ours, theirs = (
                torch.log_softmax(model(torch.tensor([sequence.ids])).logits[0, -sequence.num_supervised - 1 : -1], -1)
                for model in models
            )
        assert line["kl"] == pytest.approx(float((ours.exp() * (ours - theirs)).sum(dim=-1).mean()), rel=1e-4)


def test_an_interrupted_distillation_goes_on_as_if_nothing_had_been(
    options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    whole = train(options(max_steps=6), home=home, recorder=Listener())
    listener = Listener(stop_after=3)
    with pytest.raises(InterruptedRunError):
        train(options(max_steps=6, output=str(tmp_path / "broken")), home=home, recorder=listener,
              should_stop=listener.should_stop)  # fmt: skip
    folder, config = open_interrupted_run(tmp_path / "broken", home=home)
    resumed = train(config, home=home, recorder=Listener(), resume=folder)
    one, other = Path(whole["run_dir"]), Path(resumed["run_dir"])
    for name in ("adapter/adapter_model.safetensors", "rollouts.jsonl", "metrics.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_teacher_over_http(options: Callable[..., TrainConfig], scorer: Any, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{scorer.server_port}/v1#other"
    config = options(teacher=address, max_steps=40, batch_size=8, group_size=8, learning_rate=3e-2)
    result = train(config, home=tmp_path / "home", recorder=Listener())
    steps = _steps(result["run_dir"])
    first, last = (sum(one["kl"] for one in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last < 0.9 * first, (first, last)
    assert all(body["echo"] and body["logprobs"] == 0 for body in scorer.asked)
    assert max(len(body["prompt"]) for body in scorer.asked) <= 16
    lines = read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")
    assert all("advantage" in line for line in lines)


def test_more_steps_over_the_same_answers_of_a_teacher_over_http(
    options: Callable[..., TrainConfig], scorer: Any, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{scorer.server_port}/v1#other"
    result = train(options(teacher=address, policy_epochs=2), home=tmp_path / "home", recorder=Listener())
    assert len(_steps(result["run_dir"])) == 4
    assert len(read_jsonl(Path(result["run_dir"]) / "rollouts.jsonl")) == 2 * 4 * 4


@pytest.mark.parametrize(
    "given",
    [{"reference_path": True}, {"adaptation": "full", "rank": None, "learning_rate": 1e-3}, {"policy_epochs": 2},
     {"micro_batch_tokens": 64}],
)  # fmt: skip
def test_other_ways_of_training(given: JsonDict, options: Callable[..., TrainConfig], tmp_path: Path) -> None:
    result = train(options(**given), home=tmp_path / "home", recorder=Listener())
    plain = train(options(), home=tmp_path / "home", recorder=Listener())
    assert all(invariant["holds"] for invariant in result["proof"]), result["proof"]
    assert _steps(result["run_dir"])[0]["loss"] == pytest.approx(_steps(plain["run_dir"])[0]["loss"], rel=1e-4)


@pytest.mark.usefixtures("evaluated_here")
def test_the_whole_job_is_judged_by_the_teachers_own_answers(
    run_options: Callable[..., RunConfig], options: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    learnt = run_options(held_out=8, name="master", epochs=30, learning_rate=2e-2, rank=16, early_stop=False)
    master = run(learnt, home=home, recorder=Listener())
    small = options(teacher="master", max_steps=40, batch_size=8, epochs=40).model_dump(by_alias=True)
    result = run(run_options(**small, held_out=8, name="alike"), home=home, recorder=Listener())
    assert result["training"]["teacher"] == "master@1"
    assert result["training"]["reward"] == {"kind": "teacher", "name": "master@1", "max_new_tokens": 8}
    evaluation = result["evaluation"]
    assert evaluation["metric"] == "reward"
    assert master["evaluation"]["arms"]["tuned"]["metrics"]["chrf"] > 50
    assert evaluation["arms"]["base"]["score"] + 0.1 < evaluation["arms"]["tuned"]["score"] <= 1


def test_teachers_that_cannot_teach(
    options: Callable[..., TrainConfig], scorer: Any, teacher: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", seed=3, max_position_embeddings=512)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["quixotic"])
    tokenizer.save_pretrained(other)
    with pytest.raises(BadInputError, match="another tokenizer") as caught:
        train(options(teacher=str(other)), home=tmp_path / "home", recorder=Listener())
    assert "--teacher" in caught.value.render()
    with pytest.raises(BadInputError, match="nothing says which"):
        train(options(teacher=None), home=tmp_path / "home", recorder=Listener())
    with pytest.raises(HoneError):
        train(options(teacher="nobody@7"), home=tmp_path / "home", recorder=Listener())
    with pytest.raises(BadInputError, match="asks no teacher"):
        train(options(method=None, data=str(write_jsonl(tmp_path / "rows.jsonl", [row(n) for n in range(24)]))),
              home=tmp_path / "home", recorder=Listener())  # fmt: skip
    scorer.tokenizer.decode = lambda ids: "?"
    with pytest.raises(BadInputError, match="another tokenizer"):
        train(options(teacher=f"http://127.0.0.1:{scorer.server_port}/v1#other"), home=tmp_path / "home",
              recorder=Listener())  # fmt: skip
