"""Tasks of lm-evaluation-harness: what is wrong is told before a model is loaded, and answers are judged rightly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hone.errors import ConfigError, DataError, HoneError, MissingDependencyError
from hone.evaluation import harness_lookup
from hone.evaluation.harness_tasks import open_tasks

ROWS = [{"q": f"lamp {place}:", "choices": ["lit", "on the way", "no"], "gold": place % 3} for place in range(9)]
Task = Callable[..., str]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("lm_eval")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Writes the YAML file of a task over ``ROWS``; what is given goes before."""

    def write(name: str = "lamps", *, folder: Path = tmp_path, **changes: Any) -> str:
        folder.mkdir(exist_ok=True)
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        whole = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "gold", "metric_list": [{"metric": "acc"}], **changes,
        }  # fmt: skip
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))
        return str(path)

    return write


WRITTEN: dict[str, Any] = {
    "output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "{{choices[gold]}}",
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip


class Knower:
    """Answers rightly where it is to: what it knows are the places of rows."""

    rank = 0
    world_size = 1

    def __init__(self, known: Sequence[int]) -> None:
        self.known = {ROWS[place]["q"]: ROWS[place] for place in known}

    def _right(self, context: str) -> str | None:
        row = self.known.get(context)
        return None if row is None else row["choices"][row["gold"]]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = [request.args for request in requests]
        wrong = {row["q"]: row["choices"][(row["gold"] + 1) % 3] for row in ROWS}
        told = [(self._right(context) or wrong.get(context), text) for context, text in pairs]
        return [(-1.0 if text.strip() == said else -90.0, False) for said, text in told]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return [-1.0 for _ in requests]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return [self._right(request.args[0]) or "?" for request in requests]


def test_without_the_harness_one_line_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError) as caught:
        open_tasks(["arc_easy"])
    assert caught.value.remedy == "pip install 'hone-llm[lm-eval]'"
    assert caught.value.where == "--lm-eval"


def test_opening_tasks_says_what_takes_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness_lookup, "_files_of_tasks", lambda names: {"arc_easy": tmp_path})
    monkeypatch.setattr(harness_lookup, "_found", lambda name, files: {})
    said: list[str] = []
    harness_lookup.find_tasks(["arc_easy", "mmlu", "./mine.yaml"], say=said.append)
    assert ["14,000 files" in one for one in said] == [False, True, False]
    assert [one.partition(":")[0] for one in said] == ["arc_easy", "mmlu", "./mine.yaml"]


def test_a_path_has_a_slash_or_ends_in_yaml() -> None:
    paths = ["tasks/mine", "mine.yaml", "./mine", "C:\\mine", "mine.yml"]
    assert [one for one in [*paths, "arc_easy", "mmlu"] if harness_lookup.is_path(one)] == paths


@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (ConnectionError("no route"), "data cannot be fetched: no route", "with a network"),
        (FileNotFoundError("rows.jsonl"), "data cannot be fetched: rows.jsonl", "data_files"),
        (ImportError("no module langdetect"), "needs a package that is not installed", "install it"),
        (KeyError("gold"), "cannot ask it: KeyError: 'gold'", "mend the task"),
    ],
)
def test_what_fails_inside_is_told_in_ours(error: Exception, told: str, remedy: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(HoneError) as caught:
        harness_lookup.failing_clearly("mine", fail)
    assert told in caught.value.what
    assert remedy in str(caught.value.remedy)


# --- with the harness ---


def test_choices_are_judged_one_by_one(harness: Any, task: Task) -> None:
    (found,) = open_tasks([task()])
    assert (found.name, found.num_requests) == ("lamps.yaml", 27)
    assert [one.right_answer for one in found.questions[:3]] == ["lit", "on the way", "no"]
    assert found.questions[1].question == "lamp 1:"
    assert {(one.skill, round(one.chance, 6)) for one in found.questions} == {("lamps", 0.333333)}
    assert found.right(Knower([0, 4, 8])) == [place in (0, 4, 8) for place in range(9)]
    assert found.right(Knower(range(9))) == [True] * 9, "asked again, from the beginning"
    assert found.facts["tasks"] == [
        {"task": "lamps", "metric": "acc", "filter": "none", "num_fewshot": 0, "questions": 9}
    ]


def test_written_answers_are_judged_one_by_one(harness: Any, task: Task) -> None:
    (found,) = open_tasks([task(**WRITTEN)])
    assert {one.chance for one in found.questions} == {0.0}
    assert found.right(Knower([1, 2])) == [place in (1, 2) for place in range(9)]


def test_normed_accuracy_goes_before_plain(harness: Any, task: Task) -> None:
    (found,) = open_tasks([task(metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])])
    assert found.facts["tasks"][0]["metric"] == "acc_norm"


def test_examples_before_a_question_are_the_same_each_time(harness: Any, task: Task) -> None:
    (found,) = open_tasks([task(num_fewshot=2, fewshot_split="test", doc_to_text="{{q}}", target_delimiter=" ")])
    assert found.questions[0].question.count("lamp") == 3

    class Guesser(Knower):
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [(-float(len(request.args[1])), False) for request in requests]

    assert found.right(Guesser([])) == found.right(Guesser([]))
    (again,) = open_tasks([task(num_fewshot=2, fewshot_split="test", target_delimiter=" ")])
    assert (again.asked, again.key) == (found.asked, found.key)


def test_the_key_knows_what_is_asked(harness: Any, task: Task) -> None:
    (plain,) = open_tasks([task()])
    (other,) = open_tasks([task(doc_to_text="{{q}} ?")])
    (fewer,) = open_tasks([task()], limit=4)
    assert len({plain.key, other.key, fewer.key}) == 3
    assert len(fewer.questions) == 4


def test_a_folder_is_all_of_its_tasks(harness: Any, task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    task("one", folder=folder)
    task("two", folder=folder, **WRITTEN)
    (found,) = open_tasks([str(folder)])
    assert [one["task"] for one in found.facts["tasks"]] == ["one", "two"]
    assert [one.skill for one in found.questions] == ["one"] * 9 + ["two"] * 9
    assert found.right(Knower([0])) == ([True] + [False] * 8) * 2


def test_a_task_that_asks_otherwise_is_refused(harness: Any, task: Task) -> None:
    (found,) = open_tasks([task()])
    found.tasks["lamps"].set_config(key="doc_to_text", value="{{q}} now")
    with pytest.raises(DataError, match="asks otherwise each time"):
        found.right(Knower([]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric_list": [{"metric": "brier_score"}]}, "measures brier_score, none of acc_norm, acc, exact_match"),
        (
            {"output_type": "loglikelihood_rolling", "doc_to_target": "{{q}}", "doc_to_text": "",
             "metric_list": [{"metric": "byte_perplexity"}]},
            "measures byte_perplexity, none of",
        ),
        ({**WRITTEN, "generation_kwargs": {"do_sample": True, "temperature": 0.7, "until": ["x"]}}, "are sampled"),
        ({"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, "data cannot be fetched"),
        ({"doc_to_text": "{{ q | nothing }}"}, "cannot ask it"),
        ({"unsafe_code": True}, "runs code that the model writes"),
    ],
    ids=["no right or wrong", "perplexity", "sampled", "no data", "template", "unsafe"],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(harness: Any, task: Task, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(HoneError) as caught:
        open_tasks([task(**changes)])
    assert told in caught.value.what
    assert caught.value.remedy


def test_names_that_are_not_there(harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    # the harness's own index takes a minute
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    with pytest.raises(ConfigError, match="has no task 'no_such_task'"):
        open_tasks(["no_such_task"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_tasks([str(tmp_path / "nowhere.yaml")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no YAML file in it describes a task"):
        open_tasks([str(tmp_path / "empty")])


def test_data_of_the_hub_that_cannot_be_fetched(harness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    def offline(*given: Any, **named: Any) -> None:
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"arc_easy: the task's data cannot be fetched: Couldn't reach"):
        open_tasks(["arc_easy"])


def test_the_judgement_is_the_harnesss_own(harness: Any, task: Task, tmp_path: Path) -> None:
    """simple_evaluate with the harness's HFLM gives the same rights and wrongs as hone's model in hone's way."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tests.evaluation.test_harness_model import harness_model
    from tests.tiny import save_tiny, tiny_model

    path = task(metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
    (found,) = open_tasks([path])
    folder = save_tiny(tmp_path / "tiny", seed=5)
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4), tasks=[path],
        task_manager=TaskManager(include_defaults=False), bootstrap_iters=0,
    )  # fmt: skip
    samples = sorted(theirs["samples"]["lamps"], key=lambda one: one["doc_id"])
    rights = found.right(harness_model(tiny_model("llama", seed=5)))
    assert rights == [one["acc_norm"] == 1.0 for one in samples]
    assert 0 < sum(rights) < len(rights), "else nothing is shown"
