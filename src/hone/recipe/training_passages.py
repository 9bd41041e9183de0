"""Passages of documents in training prompts, so that the tuned model learns to use what retrieval will give it.

Half of the rows are asked with passages before the question, as the arm ``tuned_retrieval`` is asked, the others as
they are, so that both ways of asking are learnt. A fifth of those with passages get other questions' passages alone:
what does not help is to be passed over (Zhang et al. 2024, "RAFT", arXiv:2403.10131, who leave the right document out
of a part of their rows). What search finds for a question is the right passages with some that distract.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hone.data.render import Renderer
from hone.engine.parallel import Parallel
from hone.errors import StorageError, TemplateError
from hone.files import write_atomically
from hone.recipe.contest import PASSAGES
from hone.recipe.rows import PreparedRows
from hone.registry.runs import RunFolder
from hone.retrieval import Passage, PassageIndex, search_text, with_passages
from hone.types import Example, JsonDict, TokenSequence

__all__ = ["TrainingPassages", "passages_file", "rows_with_passages", "store_passages"]

_SHARE_OF_ROWS = 0.5
_SHARE_DISTRACTING = 0.2


@dataclass(frozen=True, slots=True)
class _Pick:
    """The passages of one training row."""

    row: int
    distracting: bool
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class TrainingPassages:
    """What was put into training prompts.

    Args:
        picks: the passages of each row.
        facts: ``rows`` with passages, those of them that are ``distracting``, ``passages`` of a prompt at most, and the
            ``search``.
    """

    picks: tuple[_Pick, ...]
    facts: JsonDict

    def describe(self, num_train: int) -> str:
        """A sentence for the user, of so many training rows."""
        return (
            f"{self.facts['rows']} of {num_train} training rows are asked with passages of the documents, "
            f"{self.facts['distracting']} of them with distracting ones alone ({self.facts['search']})"
        )


def passages_file(folder: RunFolder) -> Path:
    """Which training row was asked with which passages; one a line."""
    return folder.path / "passages.jsonl"


def rows_with_passages(
    rows: PreparedRows,
    documents: Callable[[], PassageIndex | None],
    renderer: Renderer,
    *,
    folder: RunFolder,
    seed: int,
    parallel: Parallel,
) -> tuple[PreparedRows, TrainingPassages | None]:
    """Put passages into the prompts of half of the training rows; those of the run's folder where it was begun before.

    A row that would not fit into the context gets fewer passages. Validation rows stay as they are.

    Args:
        rows: as prepared.
        documents: gives the index; None without documents.
        renderer: of training.
        folder: of the run.
        seed: decides which rows, and which of them get distracting passages alone.
        parallel: the processes; the first one's choice is everybody's.

    Returns:
        The rows, and what was put into them; None without documents.

    Raises:
        StorageError: the passages of the run are damaged.
        HoneError: the documents cannot be read.
    """
    index = documents() if parallel.is_first else None
    if not parallel.from_first(index is not None):
        return rows, None
    found: list[_Pick] = []
    if index is not None:
        stored = passages_file(folder)
        found = _stored(stored) if stored.exists() else _chosen(rows.train, index, seed)
    picks = _from_rows(parallel.from_first([asdict(pick) for pick in found]))
    by_row = {example.row: example for example in rows.train}
    asked: dict[int, Example] = {}
    sequences: dict[int, tuple[TokenSequence, ...]] = {}
    for pick in picks:
        made = _rendered(by_row[pick.row], pick.passages, renderer)
        if made is not None:
            asked[pick.row], sequences[pick.row] = made
    facts = {
        "rows": len(asked),
        "distracting": sum(pick.distracting for pick in picks if pick.row in asked),
        "passages": PASSAGES,
        "search": parallel.from_first(None if index is None else index.method),
    }
    changed = replace(rows, sequences={**rows.sequences, **sequences}, asked_otherwise=asked)
    return changed, TrainingPassages(tuple(picks), facts)


def _chosen(examples: Sequence[Example], index: PassageIndex, seed: int) -> list[_Pick]:
    draw = random.Random(f"hone-passages-{seed}")
    count = round(_SHARE_OF_ROWS * len(examples))
    chosen = sorted(draw.sample(range(len(examples)), count))
    distracted = set(draw.sample(chosen, round(_SHARE_DISTRACTING * count)))
    picks = []
    for place in chosen:
        own = index.search(search_text(examples[place].prompt), PASSAGES)
        if place in distracted:
            others = index.search(search_text(examples[draw.choice(chosen)].prompt), 2 * PASSAGES)
            own = [passage for passage in others if passage not in own][:PASSAGES]
        if own:
            picks.append(_Pick(examples[place].row, place in distracted, tuple(own)))
    return picks


def _rendered(
    example: Example, passages: Sequence[Passage], renderer: Renderer
) -> tuple[Example, tuple[TokenSequence, ...]] | None:
    """The row with as many passages as fit, rendered; None where not even one does."""
    for count in range(len(passages), 0, -1):
        asked = replace(example, messages=(*with_passages(example.prompt, passages[:count]), example.messages[-1]))
        try:
            rendered = renderer.render(asked)
        except TemplateError:
            continue  # too long; or a passage holds what the template would take for its own control tokens
        if not rendered.cut_tokens:
            return asked, rendered.sequences
    return None


def _stored(path: Path) -> list[_Pick]:
    try:
        return _from_rows([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"the passages of the training rows cannot be read: {error}",
            where=str(path),
            why="a resumed run must train on the same rows",
            remedy="begin the run anew",
        ) from error


def store_passages(folder: RunFolder, used: TrainingPassages) -> None:
    """Write ``passages.jsonl``.

    Args:
        folder: of the run.
        used: as :func:`rows_with_passages` gave it.

    Raises:
        StorageError: no space or no permission.
    """
    lines = [json.dumps(asdict(pick), ensure_ascii=False) + "\n" for pick in used.picks]
    write_atomically(passages_file(folder), "".join(lines))


def _from_rows(rows: Sequence[JsonDict]) -> list[_Pick]:
    return [
        _Pick(row["row"], row["distracting"], tuple(Passage(**passage) for passage in row["passages"])) for row in rows
    ]
