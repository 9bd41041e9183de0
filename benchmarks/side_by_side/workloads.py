"""The workloads, made from rows that the user names: token ids and label masks, dumped once for all systems.

W1  short chat rows, as they are
W2  full rows: rendered rows end to end, cut to one length
W3  pairs: two answers under one prompt, each as long as the prompt; the two stand in one optimizer step
W5  the same chat rows under one long system prompt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.types import Example, Message, TokenSequence
from side_by_side.spec import IGNORED_LABEL, Workload

Rows = tuple[list[list[int]], list[list[int]]]


@dataclass(frozen=True)
class Sizes:
    """How big the workloads are.

    Args:
        rows: rows of an optimizer step of W1, W3 and W5.
        full_rows: rows of an optimizer step of W2.
        steps: steps of W1 and W3, the warm-up's included.
        long_steps: steps of W2 and W5, the warm-up's included.
        warmup_steps: steps that are not timed; W2 and W5 have one.
        full_length: tokens of a row of W2.
        system_tokens: tokens that all rows of W5 begin with, at least.
        limit: tokens of a row of W1 and W5 at most; longer rows are left out.
    """

    rows: int = 8
    full_rows: int = 4
    steps: int = 8
    long_steps: int = 4
    warmup_steps: int = 2
    full_length: int = 1024
    system_tokens: int = 400
    limit: int = 1024

    @staticmethod
    def quick() -> Sizes:
        """Enough to see that everything works."""
        return Sizes(rows=2, full_rows=2, steps=3, long_steps=3, warmup_steps=1, full_length=96, system_tokens=40)


def make_workloads(
    wanted: Sequence[str], sources: Sequence[Path], documents: Path, renderer: Renderer, sizes: Sizes
) -> list[Workload]:
    """All workloads asked for: W1 of every source, the others of the first.

    Args:
        wanted: of ``W1``, ``W2``, ``W3``, ``W5``.
        sources: JSONL files of chat rows.
        documents: a folder of text that the system prompt of W5 is cut from.
        renderer: of the base.
        sizes: how big.
    """
    made: list[Workload] = []
    if "W1" in wanted:
        made += [_short_rows(f"W1 {_label(source)}", _examples(source), renderer, sizes) for source in sources]
    examples = _examples(sources[0])
    if "W2" in wanted:
        made.append(_full_rows(examples, renderer, sizes))
    if "W3" in wanted:
        made.append(_pairs(examples, renderer, sizes))
    if "W5" in wanted:
        made.append(_under_one_prompt(examples, documents, renderer, sizes))
    return made


def _label(source: Path) -> str:
    return source.parent.name if source.stem == "train" else source.stem


def _examples(source: Path) -> list[Example]:
    return load_examples(str(source)).examples


def _sequences(examples: Sequence[Example], renderer: Renderer) -> list[TokenSequence]:
    return [sequence for example in examples for sequence in renderer.render(example).sequences]


def _dumped(sequences: Sequence[TokenSequence]) -> Rows:
    ids = [list(sequence.ids) for sequence in sequences]
    labels = [
        [IGNORED_LABEL if place == 0 or not flag else token for place, (token, flag) in enumerate(pairs)]
        for pairs in (list(zip(sequence.ids, sequence.supervised, strict=True)) for sequence in sequences)
    ]
    return ids, labels


def _workload(name: str, sequences: Sequence[TokenSequence], rows: int, steps: int, warmup: int, says: str) -> Workload:
    if not sequences:
        raise SystemExit(f"{name}: no row is left; rows over the limit of tokens are left out")
    ids, labels = _dumped(list(islice(cycle(sequences), rows * steps)))
    lengths = [len(row) for row in ids]
    supervised = sum(label != IGNORED_LABEL for row in labels for label in row)
    facts = {
        "says": says,
        "rows": len(ids),
        "tokens": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "mean_length": sum(lengths) / len(lengths),
        "supervised_share": supervised / sum(lengths),
        # what a token attends to on average, itself included: the causal half of its row
        "mean_context": sum(length * (length + 1) / 2 for length in lengths) / sum(lengths),
    }
    return Workload(name, rows, ids, labels, warmup, facts)


def _short_rows(name: str, examples: Sequence[Example], renderer: Renderer, sizes: Sizes) -> Workload:
    sequences = [row for row in _sequences(examples, renderer) if len(row.ids) <= sizes.limit]
    return _workload(name, sequences, sizes.rows, sizes.steps, sizes.warmup_steps, "short chat rows, as they are")


def _full_rows(examples: Sequence[Example], renderer: Renderer, sizes: Sizes) -> Workload:
    stream = [
        pair for row in _sequences(examples, renderer) for pair in zip(row.ids, row.supervised, strict=True)
    ]  # fmt: skip
    count, length = sizes.full_rows * sizes.long_steps, sizes.full_length
    tokens = list(islice(cycle(stream), count * length))
    sequences = []
    for row in range(count):
        part = tokens[row * length : (row + 1) * length]
        sequences.append(TokenSequence(tuple(t for t, _ in part), tuple(flag for _, flag in part), row + 1))
    says = f"the same rows end to end, cut into rows of {length} tokens"
    return _workload("W2", sequences, sizes.full_rows, sizes.long_steps, 1, says)


def _pairs(examples: Sequence[Example], renderer: Renderer, sizes: Sizes) -> Workload:
    rows = _sequences(examples, renderer)
    answers = [token for row in rows for token, flag in zip(row.ids, row.supervised, strict=True) if flag]
    stream = cycle(answers)
    sequences = []
    for row in rows:
        prompt = row.ids[: row.supervised.index(True)]
        for _ in range(2):
            answer = tuple(islice(stream, len(prompt)))
            flags = (False,) * len(prompt) + (True,) * len(answer)
            sequences.append(TokenSequence(prompt + answer, flags, row.row))
    says = "two answers under each prompt, each as long as the prompt; as supervised rows"
    return _workload("W3", sequences, sizes.rows, sizes.steps, sizes.warmup_steps, says)


def _under_one_prompt(examples: Sequence[Example], documents: Path, renderer: Renderer, sizes: Sizes) -> Workload:
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(documents.iterdir()) if path.is_file())
    system = _prompt_of_length(" ".join(text.split()), sizes.system_tokens, renderer)
    ruled = [
        replace(example, messages=(system, *(one for one in example.messages if one.role != "system")))
        for example in examples
    ]
    sequences = [row for row in _sequences(ruled, renderer) if len(row.ids) <= sizes.limit]
    says = (
        f"chat rows under one system prompt; all begin with the same {shared_tokens([r.ids for r in sequences])} tokens"
    )
    return _workload("W5", sequences, sizes.rows, sizes.long_steps, 1, says)


def _prompt_of_length(text: str, tokens: int, renderer: Renderer) -> Message:
    """A system message of as many words as give at least ``tokens`` tokens; found by halving."""
    words = text.split(" ")

    def length(count: int) -> int:
        under = Message("system", " ".join(words[:count]))
        return shared_tokens([renderer.prompt((under, Message("user", text))) for text in ("one", "7 others")])

    if length(len(words)) < tokens:
        raise SystemExit(f"the documents give a system prompt of {length(len(words))} tokens; {tokens} are wanted")
    return Message("system", " ".join(words[: _first_reaching(tokens, len(words), length)]))


def shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with."""
    columns = zip(*rows, strict=False)
    return next((place for place, column in enumerate(columns) if len(set(column)) > 1), min(map(len, rows)))


def _first_reaching(wanted: int, most: int, measure: Callable[[int], int]) -> int:
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if measure(middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return low
