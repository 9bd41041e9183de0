"""The arms beside base and tuned: what they are asked, held against plain transformers; kept answers; others."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from hone.config import EvaluateConfig
from hone.errors import ConfigError
from hone.evaluation import TaskShape
from hone.recipe import arm_answers
from hone.recipe.evaluate import EvaluationResult, evaluate
from hone.recipe.instruction import derive_instruction, with_instruction
from hone.recipe.shots import Shots, TrainingRows, choose_count, read_training_rows, with_shots
from hone.types import Example, JsonDict, Message
from tests.recipe.conftest import Finished, Listener, read_jsonl
from tests.tiny import tiny_model, tiny_tokenizer

INSTRUCTION = "Answer in one short line."


def asked(finished: Finished, **given: Any) -> EvaluationResult:
    config = EvaluateConfig.model_validate(
        {"version": "questions", "device": "cpu", "dtype": "float32", "limit": 4, "max_new_tokens": 6, **given}
    )
    return evaluate(config, home=finished.home, recorder=Listener())


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for name, text in (("lamp", "The lamp is lit at 9."), ("order", "The order is on the way."), ("x", "Zebras.")):
        (folder / f"{name}.md").write_text(f"# About\n{text}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(finished: Finished, documents: Path) -> EvaluationResult:
    return asked(finished, documents=documents, instruction=INSTRUCTION)


def base_answer(messages: list[JsonDict], limit: int = 6) -> str:
    """What the base writes, by transformers' own generation."""
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", max_position_embeddings=512)
    ids = torch.tensor([tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)])
    out = model.generate(input_ids=ids, max_new_tokens=limit, do_sample=False, eos_token_id=2, pad_token_id=0)
    return str(tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True)).strip()


def held_out(finished: Finished) -> list[list[JsonDict]]:
    return [one["messages"][:-1] for one in read_jsonl(finished.folder / "held_out.jsonl")[:4]]


def test_all_six_arms_answer(found: EvaluationResult) -> None:
    arms = ["base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval"]
    assert list(found.evaluation["arms"]) == arms
    assert len(found.evaluation["differences"]) == 15
    first = found.evaluation["differences"][0]
    assert (first["arm"], first["against"]) == ("tuned", "base")
    assert all(one["p_adjusted"] >= one["p_value"] for one in found.evaluation["differences"])
    assert found.verdict is not None
    for arm in found.evaluation["arms"].values():
        assert arm["per_1000_answers"]["prompt_tokens"] == arm["prompt_tokens"] / 4 * 1000


def test_the_prompted_arm_is_the_base_with_the_instruction(finished: Finished, found: EvaluationResult) -> None:
    expected = [base_answer([{"role": "system", "content": INSTRUCTION}, *turns]) for turns in held_out(finished)]
    assert [row["answers"]["prompted"] for row in found.answers] == expected
    assert found.evaluation["arms"]["prompted"]["how"] == {"instruction": INSTRUCTION, "derived": False}


def test_the_retrieval_arm_reads_passages_that_share_words(finished: Finished, found: EvaluationResult) -> None:
    sources = {"lamp": "The lamp is lit at 9.", "order": "The order is on the way."}
    compared = 0
    for turns, row in zip(held_out(finished), found.answers, strict=True):
        [turn] = turns
        if "lamp" not in turn["content"] and "order" not in turn["content"]:
            continue
        first = "lamp" if "lamp" in turn["content"] else "order"
        both = [first, *(name for name in sources if name != first)]
        texts = [f"[{n}] {name}.md, About: {sources[name]}" for n, name in enumerate(both, 1)]
        opening = "Use these passages where they help. They are numbered, so that an answer can cite them, as [1]."
        content = "\n\n".join([opening, *texts, turn["content"]])
        compared += row["answers"]["retrieval"] == base_answer([{"role": "user", "content": content}])
    how = found.evaluation["arms"]["retrieval"]["how"]
    assert how["indexed_passages"] == 3
    assert how["search"].startswith("BM25")
    if how["search"] == "BM25":  # with embeddings at hand the order is another
        assert compared == sum("lamp" in t[0]["content"] or "order" in t[0]["content"] for t in held_out(finished))


def test_grounding_is_measured_for_every_arm(found: EvaluationResult) -> None:
    assert set(found.evaluation["grounding"]["arms"]) == set(found.evaluation["arms"])


def test_few_shot_rows_are_those_trained_on(finished: Finished, found: EvaluationResult) -> None:
    how = found.evaluation["arms"]["few_shot"]["how"]
    tried = {one["examples"]: one["bits_per_byte"] for one in how["tried"]}
    assert tried[how["examples"]] <= 1.01 * min(tried.values())


def test_a_second_evaluation_writes_no_token(
    finished: Finished, documents: Path, found: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    inner = arm_answers.generate
    monkeypatch.setattr(arm_answers, "generate", lambda m, p, **k: (counted.append(len(p)), inner(m, p, **k))[1])
    again = asked(finished, documents=documents, instruction=INSTRUCTION)
    assert sum(counted) == 0
    assert again.answers == found.answers
    assert again.evaluation == found.evaluation
    asked(finished, arms=("base", "tuned"), cache=False)
    assert sum(counted) == 8
    asked(finished, arms=("base", "tuned"), max_new_tokens=3)
    assert sum(counted) == 16, "another limit is another answer"


def test_another_version_and_an_endpoint_answer_too(finished: Finished) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked_for.append(body)
            text = {"choices": [{"message": {"content": "the lamp is lit"}, "finish_reason": "stop"}]}
            data = json.dumps(text).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    asked_for: list[JsonDict] = []
    with serving(Handler) as port:
        url = f"http://127.0.0.1:{port}/v1#m"
        found = asked(finished, arms=("base", "tuned"), against=(finished.config.model, url))
    names = list(found.evaluation["arms"])
    assert names[:2] == ["base", "tuned"]
    assert names[3] == url
    answers = found.answers
    assert [row["answers"][names[2]] for row in answers] == [row["answers"]["base"] for row in answers]
    assert {row["answers"][url] for row in answers} == {"the lamp is lit"}
    assert [one["messages"] for one in asked_for] == held_out(finished)
    assert found.evaluation["arms"][url]["tokens"] is None
    assert {(one["arm"], one["against"]) for one in found.evaluation["differences"]} == {
        ("tuned", "base"), ("tuned", names[2]), ("tuned", url),
    }  # fmt: skip


class serving:
    """A server on 127.0.0.1 inside a block."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = HTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> int:
        self.thread.start()
        return self.server.server_port

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_the_same_version_twice_is_refused(finished: Finished) -> None:
    with pytest.raises(ConfigError, match="would answer twice"):
        asked(finished, arms=("base",), against=(finished.config.model, finished.config.model))


def test_a_base_alone_is_prompted_only_with_an_instruction(finished: Finished) -> None:
    rows = str(finished.folder / "held_out.jsonl")
    own = asked(finished, version=finished.config.model, data=rows, instruction=INSTRUCTION)
    assert list(own.evaluation["arms"]) == ["base", "prompted"]
    with pytest.raises(ConfigError, match="few_shot cannot answer here") as raised:
        asked(finished, version=finished.config.model, data=rows, arms=("base", "few_shot"))
    assert "there is no training run" in str(raised.value.why)


# --- training rows, shots and instructions ---


def example(prompt: str, answer: str, row: int = 1, system: str | None = None) -> Example:
    opening = (Message("system", system),) if system else ()
    return Example((*opening, Message("user", prompt), Message("assistant", answer, supervised=True)), row=row)


class FakeAnswerer:
    def __init__(self, folder: Path | None) -> None:
        self.run_folder = folder


def test_training_rows_are_found_by_their_content(finished: Finished, tmp_path: Path) -> None:
    rows = read_training_rows(FakeAnswerer(finished.folder))  # type: ignore[arg-type]
    data = finished.result["data"]
    assert (len(rows.train), len(rows.validation), rows.reason) == (data["train"], data["validation"], "")
    questions = {one["messages"][-2]["content"] for one in read_jsonl(finished.folder / "held_out.jsonl")}
    assert not questions & {one.messages[-2].content for one in rows.all}


def test_a_changed_training_file_gives_no_rows(finished: Finished, tmp_path: Path) -> None:
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / name).write_bytes((finished.folder / name).read_bytes())
    lines = Path(finished.config.data).read_text(encoding="utf-8").splitlines()
    changed = tmp_path / "questions.jsonl"
    changed.write_text("\n".join(line.replace("is lit", "is out") for line in lines), encoding="utf-8")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8").replace(finished.config.data, str(changed))
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    rows = read_training_rows(FakeAnswerer(tmp_path))  # type: ignore[arg-type]
    assert rows.train == ()
    assert "questions.jsonl has changed since the training" in rows.reason


POOL = [example("the red lamp", "one", 1), example("a blue door", "two", 2), example("a red door", "three", 3)]


def test_shots_are_alike_and_never_the_question_itself() -> None:
    shots = Shots(POOL)
    assert [one.row for one in shots.like(example("red doors here", "?"), 2)] == [2, 3] or [
        one.row for one in shots.like(example("red doors here", "?"), 1)
    ] == [3]
    assert [one.row for one in shots.like(POOL[2], 3)][-1] != 3
    assert {one.row for one in shots.like(example("zebra", "?"), 2)} == {1, 2}
    turns = with_shots((Message("system", "s"), Message("user", "q")), POOL[:1])
    assert [(turn.role, turn.content, turn.supervised) for turn in turns] == [
        ("system", "s", False), ("user", "the red lamp", False), ("assistant", "one", False), ("user", "q", False),
    ]  # fmt: skip


def test_the_count_is_the_smallest_within_one_percent_of_the_best() -> None:
    rows = TrainingRows(tuple(example(f"question {n}", f"answer {n}", n) for n in range(20)), tuple(POOL))
    by_turns = {2: 1.0, 6: 0.905, 12: 0.9}  # two turns a shot, without the question

    def measure(asked_rows: Any) -> float:
        assert {one.answer for one, _ in asked_rows} == {"one", "two", "three"}, "validation rows alone"
        [turns] = {len(messages) - 1 for _, messages in asked_rows}
        return by_turns[turns]

    assert choose_count(rows, measure) == (3, {1: 1.0, 3: 0.905, 6: 0.9})
    assert choose_count(rows, lambda asked_rows: None) == (1, {})


@pytest.mark.parametrize(
    ("kind", "answers", "told"),
    [
        ("labels", ["spam", "ham"] * 3, "exactly one of these labels and nothing else: ham, spam."),
        ("json", ['{"a": 1, "b": 2}'] * 4, 'Its fields are: "a", "b".'),
        ("short", ["two words", "three words here"], "in a few words, about 2"),
        ("text", ["One line.\nAnother line of it."] * 3, "in 2 lines with about 6 words"),
        ("summary", ["Short."] * 3, "Summarise with about 1 words"),
        ("code", ["ls -l"] * 3, "without a code fence"),
    ],
)
def test_a_derived_instruction_says_the_form(kind: Any, answers: list[str], told: str) -> None:
    rows = [example(f"question {n}", answer, n) for n, answer in enumerate(answers)]
    text = derive_instruction(rows, TaskShape(kind, ("ham", "spam"), ""))
    assert told in text
    assert text.count("Input: ") == min(3, len(set(answers)))
    assert derive_instruction(rows, TaskShape(kind, ("ham", "spam"), "")) == text


def test_an_instruction_follows_the_rows_own_system_message() -> None:
    user = Message("user", "q")
    assert with_instruction([Message("system", "Be kind."), user], "Be short.")[0].content == "Be kind.\n\nBe short."
    assert with_instruction([user], "Be short.") == (Message("system", "Be short."), user)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(arm_answers.KEY_VARIABLE, raising=False)


def test_the_fields_of_json_answers_are_counted_by_their_names() -> None:
    """Values of any kind, objects among them, and a field that few answers have is not one of the form."""
    answers = [{"intent": "weather", "slots": {"city": name}} for name in ("Rome", "Oslo", "Bern", "Kyiv", "Lima")]
    texts = [json.dumps(answer) for answer in [*answers, {**answers[0], "rare": {"a": 1}}]]
    rows = [Example((Message("user", f"question {place}"), Message("assistant", text)), row=place)
            for place, text in enumerate(texts, 1)]  # fmt: skip
    said = derive_instruction(rows, TaskShape("json", (), ""))
    assert 'Its fields are: "intent", "slots".' in said
    assert "rare" not in said.split("Examples:")[0]
