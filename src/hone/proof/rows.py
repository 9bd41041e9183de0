"""Invariants of the rows, before training: what carries loss, what the template gives, and what is held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from hone.data.render import Renderer
from hone.data.split import near_copies
from hone.proof.invariant import Invariant, listed
from hone.types import Example, TokenSequence

__all__ = ["check_rows"]

_SAMPLE_ROWS = 16


def check_rows(
    train: Sequence[Example],
    held_out: Sequence[Example],
    sequences: Sequence[TokenSequence],
    renderer: Renderer,
    *,
    bos_id: int | None,
    given: Sequence[Example] | None = None,
) -> list[Invariant]:
    """Invariants 1, 2 and 8: what is trained on.

    Args:
        train: the rows trained on.
        held_out: the rows set aside.
        sequences: ``train`` rendered.
        renderer: the one that rendered them.
        bos_id: the tokenizer's first token, where it has one.
        given: ``train`` as the user gave it, where something was put into its prompts.
    """
    places = {example.row: _place(example) for example in train}
    return [
        _supervised(sequences, renderer, places),
        _rendered(train, sequences, renderer, places, bos_id=bos_id),
        _apart(given or train, held_out),
    ]


def _place(example: Example) -> str:
    return f"{example.source}:{example.line}" if example.source else f"row {example.row}"


def _supervised(sequences: Sequence[TokenSequence], renderer: Renderer, places: Mapping[int, str]) -> Invariant:
    found = []
    for sequence in sequences:
        if sequence.num_supervised == 0:
            found.append(f"{places[sequence.row]}: no token carries loss")
        elif not _turns_end(sequence, renderer.stop_ids):
            found.append(f"{places[sequence.row]}: a turn's end carries no loss")
    return Invariant(
        1, "every row has supervised tokens, and each supervised turn's end is among them",
        not found, len(found), "0 rows without", f"all {len(sequences)} sequences",
        "look at the rows with `hone data show`", listed(found),
    )  # fmt: skip


def _rendered(
    train: Sequence[Example],
    sequences: Sequence[TokenSequence],
    renderer: Renderer,
    places: Mapping[int, str],
    *,
    bos_id: int | None,
) -> Invariant:
    by_row: dict[int, list[TokenSequence]] = defaultdict(list)
    for sequence in sequences:
        by_row[sequence.row].append(sequence)
    sample = _spread(train)
    found = [
        f"{_place(example)}: does not begin as the prompt for generation does"
        for example in sample
        if _prompts_differ(example, by_row[example.row], renderer)
    ]
    found += [
        f"{places[sequence.row]}: begins with two BOS tokens"
        for sequence in sequences
        if bos_id is not None and sequence.ids[:2] == (bos_id, bos_id)
    ]
    return Invariant(
        2, "the prompt rendered for generation is a prefix of the row trained on, with one BOS at most",
        not found, len(found), "0 rows that differ", f"{len(sample)} of {len(train)} rows; BOS on all",
        "the chat template is not consistent; report the model", listed(found),
    )  # fmt: skip


def _apart(train: Sequence[Example], held_out: Sequence[Example]) -> Invariant:
    copies = near_copies(list(train), list(held_out)) if held_out else []
    found = [f"{_place(train[a])} is {alike:.0%} alike to held-out {_place(held_out[b])}" for a, b, alike in copies]
    return Invariant(
        8, "no held-out row, nor a near-copy of one, is in the training rows", not copies, len(copies), "0 rows",
        f"{len(train)} training against {len(held_out)} held-out rows", "remove the copies from the training file",
        listed(found),
    )  # fmt: skip


def _prompts_differ(example: Example, sequences: Sequence[TokenSequence], renderer: Renderer) -> bool:
    """Whether some supervised turn is not trained on right after the prompt that generation would give."""
    for index, message in enumerate(example.messages):
        if not message.supervised:
            continue
        prompt = renderer.prompt(example.messages[:index], example.tools)
        # a turn that was cut for its length has no sequence that reaches it
        reaching = [sequence for sequence in sequences if len(sequence.ids) > len(prompt)]
        if reaching and not any(s.ids[: len(prompt)] == prompt and s.supervised[len(prompt)] for s in reaching):
            return True
    return False


def _turns_end(sequence: TokenSequence, stop_ids: Sequence[int]) -> bool:
    flags = (*sequence.supervised, False)
    return all(sequence.ids[at] in stop_ids for at in range(len(sequence.ids)) if flags[at] and not flags[at + 1])


def _spread(examples: Sequence[Example]) -> list[Example]:
    stride = max(1, len(examples) // _SAMPLE_ROWS)
    return list(examples[::stride])[:_SAMPLE_ROWS]
