"""The sets of questions that retention is measured by: hone's own suite, files, and tasks of lm-evaluation-harness.

A set is opened before anything long begins, so that what is wrong with it is told then. Made ready for one base it can
be asked of that base and of what was tuned from it, any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hone.config.schema import EvaluateConfig, RunConfig
from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.errors import TemplateError
from hone.evaluation.harness_model import HarnessModel
from hone.evaluation.harness_tasks import HarnessTasks, open_tasks
from hone.evaluation.probe_scores import RenderedItem, render_item, score_items
from hone.evaluation.probes.item import ProbeItem, Question
from hone.evaluation.probes.question_files import read_questions
from hone.evaluation.probes.suite import probe_suite
from hone.model.forward import Forward, logits_pass
from hone.model.load import LoadedModel
from hone.types import JsonDict

__all__ = ["QuestionSet", "ReadySet", "question_sets"]

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ReadySet:
    """Questions as one base reads them.

    Args:
        name: of the set.
        questions: those that can be asked.
        key: all that the answers depend on beside the model and its path; it has a ``repr`` of its own.
        steps: how much is answered in all, for the progress.
        refused: for each question that cannot be asked, why not.
        right: whether the model in its present state, on this path, answers each question rightly; the second argument
            is called with the steps done.
        lm_eval: how lm-evaluation-harness asks; None for questions that it does not ask.
    """

    name: str
    questions: Sequence[Question]
    key: object
    steps: int
    refused: Sequence[str]
    right: Callable[[Forward, Told], list[bool]]
    lm_eval: JsonDict | None = None


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions before any model has read them.

    Args:
        name: ``probes``, the file's name, or the task's.
        ready_for: makes them ready for a base and its renderer; the model stands on its own attention.
    """

    name: str
    ready_for: Callable[[LoadedModel, Renderer], ReadySet]


def question_sets(config: EvaluateConfig | RunConfig, recorder: Recorder | None = None) -> list[QuestionSet]:
    """The sets of questions that a command is to ask, hone's own suite first; none where retention is not measured.

    Args:
        config: its options ``probes``, ``retention``, ``lm_eval`` and ``lm_eval_limit``.
        recorder: is told what takes long; nobody is, unless given.

    Raises:
        DataError: a file of questions cannot be used, or a task's data cannot be fetched.
        ConfigError: there is no such task, or it cannot be asked.
        MissingDependencyError: tasks are given, and lm-evaluation-harness is not installed.
    """

    def say(text: str) -> None:
        if recorder is not None:
            recorder.record(Event("stage", {"name": "questions", "detail": text}))

    if not config.probes:
        return []
    files = [(Path(path).name, read_questions(path)) for path in config.retention or ()]
    written = [("probes", probe_suite(config.probes)), *files]
    opened = open_tasks(config.lm_eval, limit=config.lm_eval_limit, say=say) if config.lm_eval else []
    return [*(_written(name, items) for name, items in written), *(_harness(one) for one in opened)]


def _written(name: str, items: Sequence[ProbeItem]) -> QuestionSet:
    def ready_for(base: LoadedModel, renderer: Renderer) -> ReadySet:
        rendered, refused = _render(base, renderer, items)
        asked = [one.item for one in rendered]

        def right(forward: Forward, told: Told) -> list[bool]:
            return score_items(base.model, rendered, forward=forward, logits=logits_pass(forward), on_done=told)

        return ReadySet(name, asked, asked, sum(len(one.sequences) for one in rendered), refused, right)

    return QuestionSet(name, ready_for)


def _render(base: LoadedModel, renderer: Renderer, items: Sequence[ProbeItem]) -> tuple[list[RenderedItem], list[str]]:
    """Questions as tokens of a base: those that can be asked, and for each of the others why not."""
    rendered, refused = [], []
    for item in items:
        try:
            one = render_item(item, renderer, lambda text: list(base.tokenizer(text)["input_ids"]))
        except TemplateError as error:
            refused.append(error.what)
            continue
        longest = max(len(sequence.ids) for sequence in one.sequences)
        if longest > base.context_length:
            refused.append(f"{longest} tokens, where {base.context_length} can be read")
        else:
            rendered.append(one)
    return rendered, refused


def _harness(tasks: HarnessTasks) -> QuestionSet:
    def ready_for(base: LoadedModel, renderer: Renderer) -> ReadySet:
        own_attention = str(base.model.config._attn_implementation)

        def right(forward: Forward, told: Told) -> list[bool]:
            return tasks.right(HarnessModel(
                base.model, base.tokenizer, stop_ids=renderer.stop_ids, context_length=base.context_length,
                forward=forward, own_attention=own_attention, on_done=told,
            ))  # fmt: skip

        return ReadySet(tasks.name, tasks.questions, tasks.key, tasks.num_requests, (), right, tasks.facts)

    return QuestionSet(tasks.name, ready_for)
