"""Tasks of lm-evaluation-harness as questions that base and tuned model answer rightly or wrongly.

The harness does what a task is made of: its data, its prompts and examples, its filters and its metric. Before any
model is loaded a task is rehearsed with answers that mean nothing, which finds out all that can go wrong with it: data
that cannot be fetched, a metric that is no right or wrong, answers that are sampled. It also writes down the requests,
by which base and tuned model are known to have been asked the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hone.errors import ConfigError, DataError
from hone.evaluation.harness_lookup import failing_clearly, find_tasks, is_path, require_harness, silence
from hone.types import JsonDict

__all__ = ["HarnessQuestion", "HarnessTasks", "open_tasks"]

# The harness's main metric of a task, where it is right or wrong for each question; the first that a task has.
_METRICS = ("acc_norm", "acc", "exact_match")
# The harness's own seed for examples before a question.
_EXAMPLES_SEED = 1234
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class HarnessQuestion:
    """One question of a task; the fields are those of :class:`hone.evaluation.probes.item.Question`."""

    skill: str
    chance: float
    question: str
    right_answer: str


@dataclass(frozen=True, slots=True)
class HarnessTasks:
    """What one name stands for: a task, or the tasks of a group or folder; each is a skill of its own.

    Args:
        name: as it is shown.
        questions: in the order of :meth:`right`.
        num_requests: that a model answers for them.
        asked: hash of these requests.
        key: changes with anything that the answers depend on beside the model.
        facts: how the harness asks, for the result.
        tasks: the harness's own objects by their names.
        metrics: of each task.
        limit: questions of each task; None for all.
    """

    name: str
    questions: tuple[HarnessQuestion, ...]
    num_requests: int
    asked: str
    key: str
    facts: JsonDict
    tasks: Mapping[str, Any]
    metrics: Mapping[str, str]
    limit: int | None

    def right(self, model: Any) -> list[bool]:
        """Whether a model answers each question rightly.

        Args:
            model: has the methods of the harness's ``LM``.

        Raises:
            DataError: the task asks otherwise than before, or an answer is neither right nor wrong.
        """
        asked = _Listening(model)
        samples = _samples(self.tasks, asked, self.limit)
        if _hash(asked.requests) != self.asked:
            raise DataError(
                "the task asks otherwise each time",
                where=self.name,
                why="base and tuned model would be compared on different questions",
                remedy="leave it out of --lm-eval",
            )
        return [_is_right(one, self.metrics[name], self.name) for name in self.tasks for one in samples[name]]


def open_tasks(
    names: Sequence[str], *, limit: int | None = None, say: Callable[[str], None] = lambda text: None
) -> list[HarnessTasks]:
    """Find tasks, fetch their data, and rehearse them.

    Args:
        names: of tasks, groups or tags of the harness; or paths of a task's YAML file or of a folder of such files.
        limit: take the first questions of each task only, this many of them.
        say: takes a sentence on what is about to be done, where it takes long.

    Raises:
        MissingDependencyError: lm-evaluation-harness, or a package that a task needs, is not installed.
        ConfigError: there is no such task, or it cannot be asked here.
        DataError: a task's data cannot be fetched, or the harness cannot make questions of it.
    """
    require_harness()
    return [_rehearsed(name, tasks, limit) for name, tasks in zip(names, find_tasks(names, say=say), strict=True)]


def _rehearsed(name: str, tasks: Mapping[str, Any], limit: int | None) -> HarnessTasks:
    _require_askable(name, tasks)
    asked = _Listening(_Nobody())
    samples: Mapping[str, list[JsonDict]] = failing_clearly(name, partial(_samples, tasks, asked, limit))
    sampled = sorted({task for task, kind, args in asked.requests if kind == "generate_until" and _is_sampled(args[1])})
    if sampled:
        raise ConfigError(
            f"its answers are sampled ({_shown(sampled)})",
            where=name,
            why="base and tuned model would differ by luck",
            remedy="leave it out of --lm-eval",
        )
    metrics = {task: _metric(task, samples[task], name) for task in tasks}
    for task, metric in metrics.items():
        for one in samples[task]:
            _is_right(one, metric, name)
    facts = {
        "version": importlib.metadata.version("lm_eval"),
        "limit": limit,
        "tasks": [_task_facts(task, of, metrics[task], samples[task]) for task, of in tasks.items()],
    }
    questions = tuple(_question(task, of, metrics[task], one) for task, of in tasks.items() for one in samples[task])
    title = Path(name).name if is_path(name) else name
    requests = _hash(asked.requests)
    key = _hash((requests, facts, [task.dump_config() for task in tasks.values()]))
    return HarnessTasks(title, questions, len(asked.requests), requests, key, facts, tasks, metrics, limit)


def _require_askable(name: str, tasks: Mapping[str, Any]) -> None:
    marks = {"UNSAFE_CODE": "it runs code that the model writes", "MULTIMODAL": "it shows pictures or plays sounds"}
    for mark, reason in marks.items():
        marked = [task for task, of in tasks.items() if getattr(of, mark, False)]
        if marked:
            raise ConfigError(
                f"{reason} ({_shown(marked)}), which hone does not", where=name, remedy="leave it out of --lm-eval"
            )


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _samples(tasks: Mapping[str, Any], model: _Listening, limit: int | None) -> dict[str, list[JsonDict]]:
    """What the harness writes down for each question of each task, through the first of a task's filters."""
    from lm_eval.evaluator import evaluate

    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_EXAMPLES_SEED)
    with silence():
        found = evaluate(
            model, {"tasks": dict(tasks), "groups": {}, "group_map": {}},
            limit=limit, bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    samples: Mapping[str, list[JsonDict]] = found["samples"]
    return {
        name: sorted(
            (one for one in samples[name] if one["filter"] == samples[name][0]["filter"]), key=lambda one: one["doc_id"]
        )
        for name in tasks
    }


@dataclass(slots=True)
class _Listening:
    """A model of which is noted what it was asked. It may say how far it is, where the harness may not."""

    model: Any
    requests: list[tuple[str, str, tuple[Any, ...]]] = field(default_factory=list)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    rank: int = 0
    world_size: int = 1

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._answers("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self._answers("generate_until", requests)

    def _answers(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        self.requests += [(str(request.task_name), kind, request.args) for request in requests]
        with redirect_stderr(self.stderr):
            found: list[Any] = getattr(self.model, kind)(requests)
            return found


class _Nobody:
    """Answers at once, and nothing."""

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return [-1.0] * len(requests)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return [""] * len(requests)


def _is_sampled(settings: Mapping[str, Any]) -> bool:
    return settings.get("do_sample") is not False and float(settings.get("temperature") or 0) > 0


def _hash(value: object) -> str:
    # where an object has no text of its own, Python writes where it stands in memory
    return hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).encode()).hexdigest()


def _metric(task: str, samples: Sequence[JsonDict], name: str) -> str:
    there = samples[0]["metrics"]
    metric = next((one for one in _METRICS if one in there), None)
    if metric is None:
        raise ConfigError(
            f"the task {task} measures {', '.join(there)}, none of {', '.join(_METRICS)}",
            where=name,
            why="what is compared is which questions are answered rightly",
            remedy="leave it out of --lm-eval",
        )
    return metric


def _is_right(sample: Mapping[str, Any], metric: str, name: str) -> bool:
    value = float(sample[metric])
    if value not in (0.0, 1.0):
        raise ConfigError(
            f"{metric} of a question is {value:g}, neither right (1) nor wrong (0)",
            where=name,
            remedy="leave it out of --lm-eval",
        )
    return value == 1.0


def _task_facts(task: str, of: Any, metric: str, samples: Sequence[JsonDict]) -> JsonDict:
    return {
        "task": task,
        "metric": metric,
        "filter": samples[0]["filter"],
        "num_fewshot": of.get_config("num_fewshot"),
        "questions": len(samples),
    }


def _question(task: str, of: Any, metric: str, sample: Mapping[str, Any]) -> HarnessQuestion:
    arguments, target = sample["arguments"], sample["target"]
    golds = target if isinstance(target, list) else [target]
    chance = 0.0
    if of.OUTPUT_TYPE == "multiple_choice" and metric in ("acc", "acc_norm"):
        # with acc_mutual_info each choice is asked a second time, without its question
        choices = sum(1 for one in arguments if one[0]) or len(arguments)
        chance = min(1.0, len(golds) / choices)
    places = [one for one in golds if isinstance(one, int) and 0 <= one < len(arguments)]
    right = arguments[places[0]][1] if places and of.OUTPUT_TYPE == "multiple_choice" else (golds or [""])[0]
    return HarnessQuestion(task, chance, str(arguments[0][0]), str(right).strip())
