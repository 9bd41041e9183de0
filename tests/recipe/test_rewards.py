"""Graders as rewards: which are refused before training, and what becomes of answers that cannot be graded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hone.data.render import Renderer
from hone.errors import ConfigError, ModelError
from hone.evaluation.grading import GraderError, JudgeError
from hone.model.endpoint import EndpointAnswer
from hone.model.generate import Generation
from hone.recipe import grader_judges
from hone.recipe.grader_judges import GraderJudges
from hone.recipe.judge_request import judge_request, judge_settings
from hone.recipe.rewards import GradedAnswer, Reward, open_reward, open_stored_reward
from hone.types import Example, JsonDict, Message, Task
from tests.tiny import tiny_tokenizer

CHECK: JsonDict = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "operation": "like",
                   "reference": "{{ item.answer }}"}  # fmt: skip
JUDGE: JsonDict = {"type": "score_model", "name": "judge", "input": [
    {"role": "developer", "content": "Grade."}, {"role": "user", "content": "{{ sample.output_text }}"},
]}  # fmt: skip
EXAMPLE = Example((Message("user", "How far?"), Message("assistant", ".", supervised=True)))


def answers(*texts: str, **item: Any) -> list[GradedAnswer]:
    return [GradedAnswer(EXAMPLE, item, text) for text in texts]


def asked(line: int, **columns: Any) -> Task:
    return Task(EXAMPLE.messages, line=line, source="rows.jsonl", columns=columns, is_open=True)


def opened(grader: JsonDict, home: Path, notes: list[str] | None = None, **given: Any) -> Reward:
    return open_reward(json.dumps(grader), home=home, note=print if notes is None else notes.append, **given)


def test_rows_that_lack_what_a_grader_reads_are_refused(tmp_path: Path) -> None:
    nested = {**CHECK, "input": "{{ item.meta.words[1] }}"}
    whole = asked(1, answer="a", meta={"words": ["x", "y"]})
    short = asked(7, meta={"words": ["x"]})
    opened(nested, tmp_path).check([whole, whole])
    with pytest.raises(ConfigError) as caught:
        opened(nested, tmp_path).check([whole, short, whole, asked(9, answer="b")])
    told = caught.value.render()
    assert "item.answer, item.meta.words[1], and 2 of 4 rows lack it" in told
    assert "rows.jsonl:7: no item.answer, item.meta.words[1]\n" in told
    assert "rows.jsonl:9: no item.meta.words[1]\n" in told
    assert "rows.jsonl:1:" not in told
    with pytest.raises(ConfigError, match="no row has that"):
        opened(CHECK, tmp_path).check([short, short])
    source = "def grade(sample, item):\n    return f'{{ item.nowhere }}'\n"
    opened({"type": "python", "name": "own", "source": source}, tmp_path).check([short])


@pytest.mark.parametrize("place", ['{{ item["answer"] }}', "{{ 7 * 7 }}", "{{ sample.text }}"])
def test_braces_around_no_place_are_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(GraderError) as caught:
        opened({**CHECK, "reference": place}, tmp_path)
    assert place in caught.value.render()
    assert caught.value.field == "reference"


def test_a_stored_grader_that_could_not_run_is_refused(tmp_path: Path) -> None:
    stored = {"kind": "grader", "grader": {**JUDGE, "model": "x", "sampling_params": {"temperature": "warm"}}}
    with pytest.raises(GraderError, match=r"sampling_params\.temperature"):
        open_stored_reward(stored, home=tmp_path)


def test_an_answer_that_a_judge_cannot_be_shown_is_worth_nothing(tiny_base: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    grader = {"type": "multi", "name": "all", "calculate_output": "1 + same - judge", "graders": {
        "same": CHECK, "judge": {**JUDGE, "model": str(tiny_base), "sampling_params": {"max_completions_tokens": 2}},
    }}  # fmt: skip
    reward = opened(grader, tmp_path, notes, device="cpu", dtype="float32")
    reward.judges.answer = _instead_of_the_words(reward.judges)  # type: ignore[attr-defined]
    assert reward(answers("fine", "ends <|im_end|> here", "word " * 600, answer="")) == [1.5, 0.0, 0.0]
    (note,) = [one for one in notes if "failed" in one]
    assert "2 of 3 answers" in note
    assert "control token" in note
    reward(answers("fine", "ends <|im_end|> here", answer=""))
    assert len([one for one in notes if "failed" in one]) == 1, "no more often than was told"
    with pytest.raises(ConfigError, match="fails on every answer") as caught:
        reward(answers("<|im_end|>", "<|im_start|>", answer=""))
    assert "control token" in caught.value.render()


def _instead_of_the_words(judges: GraderJudges) -> Any:
    """The judge is asked, and what a random model would say is put aside."""
    asked = GraderJudges.answer

    def answer(model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
        asked(judges, model, messages, sampling)
        return "0.5"

    return answer


def test_a_judge_answers_as_its_grader_says_on_the_run_s_device(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    true_generate = grader_judges.generate

    def generate(model: Any, prompts: Any, *, stop_ids: Any, settings: Any) -> list[Generation]:
        seen.append((model, prompts[0], settings))
        return true_generate(model, prompts, stop_ids=stop_ids, settings=replace(settings, max_new_tokens=1))

    monkeypatch.setattr(grader_judges, "generate", generate)
    judges = GraderJudges(tmp_path, "cpu", "bfloat16", print)
    sampling = {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_completions_tokens": 100_000}
    turns: list[JsonDict] = [{"role": "developer", "content": "Grade."}, {"role": "user", "content": "x"}]
    judges.answer(str(tiny_base), turns, sampling)
    model, prompt, settings = seen[0]
    assert str(model.dtype) == "torch.bfloat16"
    assert (settings.temperature, settings.top_p, settings.seed) == (0.7, 0.9, 5)
    assert settings.max_new_tokens == 512 - len(prompt)


def test_an_endpoint_that_refuses_one_answer_fails_on_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask_endpoint(endpoint: Any, conversations: Any, **further: Any) -> list[EndpointAnswer]:
        asked.append((conversations[0][0], further["max_new_tokens"], further["sampling"]))
        if "long" in conversations[0][0][1]["content"]:
            raise ModelError("answered with 400: too many tokens", where=endpoint.name)
        return [EndpointAnswer("0.75", True, None, None)]

    monkeypatch.setattr(grader_judges, "ask_endpoint", ask_endpoint)
    notes: list[str] = []
    sampling = {"top_p": 0.5, "seed": 3, "max_completions_tokens": 9, "reasoning_effort": None}
    reward = opened({**JUDGE, "model": "http://127.0.0.1:9/v1#judge", "sampling_params": sampling}, tmp_path, notes)
    assert reward(answers("short", "long")) == [0.75, 0.0]
    assert asked[0] == ([{"role": "system", "content": "Grade."}, {"role": "user", "content": "short"}], 9,
                        {"top_p": 0.5, "seed": 3})  # fmt: skip
    assert "too many tokens" in notes[0]
    with pytest.raises(JudgeError):
        GraderJudges(tmp_path, None, None, print).answer(
            "http://127.0.0.1:9/v1#judge", [{"role": "system", "content": "x"}, {"role": "user", "content": "long"}], {}
        )


def test_a_formula_that_gives_no_number_for_one_answer_fails_on_that_one(tmp_path: Path) -> None:
    notes: list[str] = []
    grader = {"type": "multi", "name": "all", "graders": {"same": CHECK}, "calculate_output": "1e308 * 10 ^ same"}
    assert opened(grader, tmp_path, notes)(answers("a", "b", answer="a")) == [0.0, 1e308]
    assert "formula_parse_error" in notes[0]


def test_a_judge_s_prompt_is_the_one_of_the_renderer() -> None:
    renderer = Renderer(tiny_tokenizer(), max_length=256)
    messages: list[JsonDict] = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "how good?"}]
    prompt, settings = judge_request(messages, {}, renderer=renderer, context_length=256)
    assert "<|im_start|>system\nbe brief" in tiny_tokenizer().decode(list(prompt))
    assert settings.max_new_tokens == 256 - len(prompt), "what is left of the context"
    for faulty, length, said in (
        ([{"role": "user", "content": "a <|im_end|> b"}], 256, "control token"),
        ([{"role": "assistant", "content": ""}], 256, "empty"),
        (messages, len(prompt), "can see"),
    ):
        with pytest.raises(JudgeError, match=said):
            judge_request(faulty, {}, renderer=renderer, context_length=length)


def test_sampling_parameters_of_a_judge() -> None:
    settings = judge_settings({"temperature": 0.5, "top_p": 0.9, "seed": -1, "max_completions_tokens": 7})
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (0.5, 0.9, 7)
    assert settings.seed == 2**31 - 1
    assert (judge_settings({"seed": None}).temperature, judge_settings({}).max_new_tokens) == (0.0, 256)
