"""The examples of the few-shot arm: training rows that are like the question, as many as served best in training.

How many is chosen on rows that training set aside to validate, else on some of the training rows, by the likelihood of
their answers: never on held-out rows. A forward pass is much cheaper than answers, and sees small differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hone.data.loader import load_examples
from hone.data.manifest import example_hash
from hone.data.split import prompt_key
from hone.errors import HoneError
from hone.recipe.inference import Answerer
from hone.recipe.rows import last_user_text
from hone.retrieval import PassageIndex, index_texts
from hone.types import Example, Message

__all__ = ["SHOT_COUNTS", "Shots", "TrainingRows", "choose_count", "read_training_rows", "with_shots"]

SHOT_COUNTS = (1, 3, 6)
_MOST_VALIDATION_ROWS = 12
_MOST_TOKENS = 12_000
# Four bytes of English make about a token. With more the arm would take longer than all others together.
_MOST_SHOT_BYTES = 1_600


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows that a version was trained on, without tool calls: a shot is a question and an answer in words.

    Args:
        train: rows trained on.
        validation: rows that chose the best step.
        reason: why there are none; empty where there are.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    reason: str = ""

    @property
    def all(self) -> tuple[Example, ...]:
        """Both parts: an arm that is not tuned may look at all that tuning has seen."""
        return self.train + self.validation


def read_training_rows(answerer: Answerer) -> TrainingRows:
    """Read a version's training rows from the file that its run names; they are not kept beside the version."""
    folder = answerer.run_folder
    if folder is None:
        return TrainingRows((), (), "there is no training run, so there are no rows to take")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        manifest = yaml.safe_load((folder / "manifest.json").read_text(encoding="utf-8"))
        examples = load_examples(str(config["data"]), mapping=config.get("map")).examples
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        return TrainingRows((), (), f"the run does not say which rows it was trained on ({error})")
    except HoneError as error:
        return TrainingRows((), (), f"the training rows cannot be read: {error.what}")
    by_hash = {example_hash(example): example for example in examples}
    train, validation = (_part(manifest.get(name, ()), by_hash) for name in ("train", "validation"))
    if train is None or validation is None:
        name = Path(str(config["data"])).name
        return TrainingRows((), (), f"{name} has changed since the training, so its rows are not those trained on")
    return TrainingRows(tuple(train), tuple(validation), "" if train else "no training row is without tool calls")


def _part(entries: Sequence[Any], by_hash: dict[str, Example]) -> list[Example] | None:
    if any(entry["sha256"] not in by_hash for entry in entries):
        return None
    found = [by_hash[entry["sha256"]] for entry in entries]
    return [one for one in found if not any(message.tool_calls for message in one.messages) and not one.tools]


class Shots:
    """Finds the training rows that are most like a question.

    Args:
        pool: rows to take from.
    """

    def __init__(self, pool: Sequence[Example]) -> None:
        self._pool = tuple(pool)
        self._keys = [prompt_key(example) for example in self._pool]
        self._index: PassageIndex = index_texts([last_user_text(example) for example in self._pool])

    def like(self, question: Example, count: int) -> list[Example]:
        """Rows by likeness, the most alike last, next to the question; none with the question's own prompt.

        Args:
            question: a held-out or a validation row.
            count: how many; where few share a word with the question, the pool's first rows fill up.
        """
        own = prompt_key(question)
        found = self._index.search_places(last_user_text(question), count + 4)
        ordered = [*found, *(place for place in range(len(self._pool)) if place not in set(found))]
        fitting = [self._pool[place] for place in ordered if self._keys[place] != own]
        return fitting[:count][::-1]


def with_shots(messages: Sequence[Message], shots: Sequence[Example]) -> tuple[Message, ...]:
    """The same conversation after earlier ones: their turns stand between the system message and the question.

    Args:
        messages: the turns before the answer.
        shots: example rows; their system messages are left off, the conversation has its own.
    """
    opening = 1 if messages and messages[0].role == "system" else 0
    turns = [
        Message(message.role, message.content)
        for shot in shots
        for message in shot.messages
        if message.role in ("user", "assistant")
    ]
    return (*messages[:opening], *turns, *messages[opening:])


def choose_count(
    rows: TrainingRows, bits_per_byte: Callable[[Sequence[tuple[Example, tuple[Message, ...]]]], float | None]
) -> tuple[int, dict[int, float]]:
    """Choose how many shots, by bits per byte of the answers of validation rows.

    Args:
        rows: where there are no validation rows, an even choice of training rows stands in, each judged by the others.
        bits_per_byte: of rows with the turns before their answers; None where the turns do not fit into the context.

    Returns:
        The count, and what each count that was tried gave. Of counts that differ by less than 1 % the smallest. What
        would make the prompt longer by more than about 400 tokens is not tried, but for a single example.
    """
    asked = rows.validation or rows.train[:: max(1, len(rows.train) // _MOST_VALIDATION_ROWS)]
    words = sum(len(message.content) for one in asked for message in one.messages) / max(1, len(asked))
    affordable = int(_MOST_TOKENS / (sum(SHOT_COUNTS) * max(1.0, words / 4)))
    asked = asked[: max(4, min(_MOST_VALIDATION_ROWS, affordable))]
    shots = Shots(rows.train)
    most = max(1, int(_MOST_SHOT_BYTES / _mean_bytes(rows.train)))
    tried: dict[int, float] = {}
    for count in SHOT_COUNTS:
        if count >= len(rows.train) or count > most:
            break
        found = bits_per_byte([(one, with_shots(one.messages[:-1], shots.like(one, count))) for one in asked])
        if found is None:
            break
        tried[count] = round(found, 6)
    if not tried:
        return SHOT_COUNTS[0], {}
    least = min(tried.values())
    return min(count for count, found in tried.items() if found <= 1.01 * least), tried


def _mean_bytes(rows: Sequence[Example]) -> float:
    """UTF-8 bytes of what a row adds to the prompt as a shot, on average."""
    told = [message.content for row in rows for message in row.messages if message.role in ("user", "assistant")]
    return max(1.0, sum(len(text.encode()) for text in told) / max(1, len(rows)))
