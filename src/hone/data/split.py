"""Rows set aside to be judged on, with no equal or nearly equal prompt left among those trained on.

Rows whose prompts are near copies of one another (``near.py``) form groups, and a group goes to one side whole. Which
groups are set aside follows from the hashes of their prompts and the seed, so that neither the order of the file nor
a change of an answer moves a row to the other side.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hone.data.manifest import example_hash
from hone.data.near import comparison_texts, near_graph, normalised
from hone.errors import DataError
from hone.types import Example

__all__ = ["Split", "are_labels", "near_copies", "prompt_key", "split_examples"]

_LABELS_AT_MOST = 20
_ROWS_PER_LABEL_SHARE = 5
_ROWS_PER_LABEL = 3


@dataclass(frozen=True, slots=True)
class Split:
    """Examples in two parts that share no prompt and no near copy of one.

    Args:
        train: examples to train on, ordered by content.
        held_out: examples set aside, ordered by content.
        groups: number of groups of near copies among all examples.
        stratified: whether each label has about the same share of both parts.
    """

    train: list[Example]
    held_out: list[Example]
    groups: int
    stratified: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that stay together: their indices, the hash that orders them, and the answer most of them have."""

    members: tuple[int, ...]
    key: str
    label: str

    @property
    def size(self) -> int:
        return len(self.members)


def split_examples(
    examples: Sequence[Example], *, held_out: float | int, seed: int = 0, purpose: str = "held-out"
) -> Split:
    """Set examples aside.

    Where the answers are few labels (at most 20, or a fifth of the rows, and at least three rows each), every label
    is set aside in proportion, and keeps a row to train on where it has two groups.

    Args:
        examples: all usable rows, in any order.
        held_out: as a float, the share of rows, between 0 and 1; as an int, the number of rows. The number set aside
            is as close to it as whole groups allow; with labels, a group that does not fit is passed over.
        seed: another seed gives another selection.
        purpose: what the rows set aside are called in messages.

    Returns:
        The two parts; every example is in exactly one, and neither is empty.

    Raises:
        DataError: ``held_out`` leaves a part empty, or all rows are near copies of one another.
    """
    wanted = _wanted_rows(held_out, len(examples), purpose)
    keys = [_seeded(prompt_key(example), seed) for example in examples]
    labels = [_label(example) for example in examples]
    grouped = near_graph(comparison_texts(examples)).groups()
    if len(grouped) == 1:
        raise DataError(
            f"all {len(examples)} prompts are equal or nearly equal, so none can be set aside as {purpose} row",
            where=examples[0].source or None,
            why="a model is judged on prompts that it was not trained on",
            remedy="add rows with other prompts",
        )
    groups = sorted((_group(members, keys, labels) for members in grouped), key=lambda group: group.key)
    stratified = are_labels(labels)
    chosen = _stratified(groups, wanted) if stratified else []
    if not chosen:
        chosen = _closest(groups, wanted)
    aside = {index for group in chosen for index in group.members}
    order = sorted(range(len(examples)), key=lambda i: (keys[i], example_hash(examples[i]), examples[i].row))
    return Split(
        train=[examples[index] for index in order if index not in aside],
        held_out=[examples[index] for index in order if index in aside],
        groups=len(groups),
        stratified=stratified,
    )


def prompt_key(example: Example) -> str:
    """A hash of the whole prompt, equal for prompts that differ in case, white space and punctuation only."""
    turns = "\x1e".join(f"{message.role}\x1f{normalised(message.content)}" for message in example.prompt)
    return hashlib.sha256(turns.encode("utf-8")).hexdigest()


def near_copies(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[int, int, float]]:
    """The held-out rows that are equal or nearly equal to a row trained on, as :mod:`hone.data.near` defines it.

    What counts as template is judged over all rows given, so give the parts whole, as they were split.

    Args:
        train: rows trained on.
        held_out: rows set aside.

    Returns:
        For each such held-out row its nearest training row: (index in ``train``, index in ``held_out``, similarity);
        similarity is 1 for prompts that are equal but for case, white space and punctuation, else at least
        :data:`hone.data.near.NEAR_THRESHOLD` or a single typing error.
    """
    graph = near_graph(comparison_texts([*train, *held_out]))
    trained: dict[int, int] = {}
    for index, representative in enumerate(graph.representative[: len(train)]):
        trained.setdefault(representative, index)
    found: list[tuple[int, int, float]] = []
    for index, representative in enumerate(graph.representative[len(train) :]):
        similar = {representative: 1.0, **graph.near.get(representative, {})}
        nearest = max(
            ((similarity, -trained[other]) for other, similarity in similar.items() if other in trained), default=None
        )
        if nearest is not None:
            found.append((-nearest[1], index, nearest[0]))
    return found


def _wanted_rows(held_out: float | int, num_rows: int, purpose: str) -> int:
    remedy = f"give a share between 0 and 1, or a number of rows from 1 to {max(num_rows - 1, 1)}"
    if num_rows < 2:
        raise DataError(f"{num_rows} row cannot be split into training and {purpose} rows", remedy="add rows")
    if isinstance(held_out, float):
        if not 0 < held_out < 1:
            raise DataError(f"a {purpose} share of {held_out} leaves one side empty", remedy=remedy)
        return min(max(round(held_out * num_rows), 1), num_rows - 1)
    if isinstance(held_out, bool) or not 0 < held_out < num_rows:
        raise DataError(f"{held_out} {purpose} rows of {num_rows} leave one side empty", remedy=remedy)
    return held_out


def _seeded(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _label(example: Example) -> str:
    calls = example.messages[-1].tool_calls
    return example.answer.strip() or "calls " + ", ".join(call.name for call in calls)


def _group(members: Sequence[int], keys: Sequence[str], labels: Sequence[str]) -> _Group:
    counts = Counter(labels[index] for index in members)
    label = min(counts, key=lambda one: (-counts[one], one))
    return _Group(tuple(members), min(keys[index] for index in members), label)


def are_labels(labels: Sequence[str]) -> bool:
    """Whether answers are few labels: at most 20, or a fifth of the rows, and at least three rows each on average."""
    distinct = len(set(labels))
    few = distinct <= max(_LABELS_AT_MOST, len(labels) / _ROWS_PER_LABEL_SHARE)
    return distinct > 1 and few and len(labels) >= _ROWS_PER_LABEL * distinct


def _stratified(groups: Sequence[_Group], wanted: int) -> list[_Group]:
    """Groups of each label up to its share of ``wanted``; what then is missing, from any label."""
    by_label: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        by_label[group.label].append(group)
    quotas = _quotas({label: sum(group.size for group in some) for label, some in by_label.items()}, wanted)
    chosen = [group for label, some in by_label.items() for group in _fitting(some[:-1], quotas[label])]
    taken = {group.members for group in chosen}
    # The last group of a label stays for training.
    spare = {group.members for some in by_label.values() for group in some[:-1]} - taken
    missing = wanted - sum(group.size for group in chosen)
    return chosen + _fitting([group for group in groups if group.members in spare], missing)


def _quotas(rows: Mapping[str, int], wanted: int) -> dict[str, int]:
    """``wanted`` shared out among labels in proportion to their rows, by largest remainder."""
    total = sum(rows.values())
    shares = {label: wanted * count / total for label, count in rows.items()}
    quotas = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (quotas[label] - shares[label], label))
    for label in by_remainder[: wanted - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def _fitting(groups: Sequence[_Group], num_rows: int) -> list[_Group]:
    """The groups, in order, that fit into what is left of ``num_rows``."""
    fitting: list[_Group] = []
    for group in groups:
        if group.size <= num_rows:
            fitting.append(group)
            num_rows -= group.size
    return fitting


def _closest(groups: Sequence[_Group], wanted: int) -> list[_Group]:
    """Groups whose rows come as close to ``wanted`` as any selection's, neither none of them nor all."""
    fitting = _fitting(groups, wanted)
    if sum(group.size for group in fitting) == wanted:
        return fitting
    by_size: dict[int, list[_Group]] = defaultdict(list)
    for group in groups:
        by_size[group.size].append(group)
    sizes = sorted(by_size)
    # Bit t of reachable[k]: t rows can be had from groups of the first k sizes.
    reachable = [1]
    for size in sizes:
        reachable.append(_with_groups(reachable[-1], size, len(by_size[size])))
    num_rows = sum(group.size for group in groups)
    totals = [total for total, bit in enumerate(reversed(f"{reachable[-1]:b}")) if bit == "1" and 0 < total < num_rows]
    left = min(totals, key=lambda total: (abs(total - wanted), total))
    chosen: list[_Group] = []
    for size, before in zip(reversed(sizes), reversed(reachable[:-1]), strict=True):
        while not before >> left & 1:
            left -= size
            chosen.append(by_size[size].pop(0))
    return chosen


def _with_groups(reachable: int, size: int, count: int) -> int:
    """The totals that can be had when ``count`` groups of ``size`` are added, by doubling."""
    step = 1
    while count > 0:
        taken = min(step, count)
        reachable |= reachable << taken * size
        count -= taken
        step *= 2
    return reachable
