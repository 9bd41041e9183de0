"""The proof around a training: every invariant before it, what is stored for the checks after it, and the loader's own.

One place, so that ``hone run``, ``hone train`` and ``hone proof`` measure alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from hone.data.render import Renderer
from hone.engine.sharding import ShardedForward
from hone.model.adaptation import Adaptation
from hone.model.forward import Forward, logits_pass
from hone.model.load import LoadedModel
from hone.model.recompute import recompute_enabled
from hone.planning.choose import TrainingChoices
from hone.proof.invariant import Invariant
from hone.proof.memory import check_memory
from hone.proof.preflight import check_model
from hone.proof.probe import check_version_probe, make_version_probe, read_version_probe, text_difference
from hone.proof.rows import check_rows
from hone.recipe.rows import PreparedRows
from hone.types import TokenSequence

__all__ = ["check_before", "first_difference", "probe_files", "reproduce"]


def check_before(
    base: LoadedModel,
    renderer: Renderer,
    rows: PreparedRows,
    *,
    adaptation: Adaptation,
    choices: TrainingChoices,
    forward: Forward,
    free_bytes: int | None,
    sharded: bool = False,
    beside: Sequence[TokenSequence] = (),
) -> list[Invariant]:
    """Invariants 1 to 8, inside the block of the path that training takes. Nothing is changed.

    Where a row breaks invariant 1, the model is not asked: what it says of such rows means nothing.

    Args:
        base: with a fresh adapter.
        renderer: of the rows.
        rows: as prepared.
        adaptation: what is to be trained.
        choices: the batch's size and how it is computed.
        forward: the path.
        free_bytes: memory that this process can still get; asked of the system where None.
        sharded: the base is yet to be split over devices, so that its memory here says nothing: invariant 7 is left
            out.
        beside: rows outside of the domain that are trained on with them; they must fit in memory, too.
    """
    sequences = rows.rendered(rows.train + rows.validation)
    given = rows.train + rows.validation
    found = check_rows(
        rows.as_asked(given), rows.held_out, sequences, renderer, bos_id=base.tokenizer.bos_token_id, given=given
    )
    if all(invariant.holds for invariant in found if invariant.number == 1):
        parameters = adaptation.parameters()
        found += check_model(base.model, sequences, parameters=parameters, forward=forward)
        if not sharded:
            base.model.eval()
            with recompute_enabled(base.model, choices.recompute_layers):
                # answers of one row are computed together
                answers = -(-len(sequences) // max(1, len(rows.train) + len(rows.validation)))
                memory = check_memory(
                    base.model, [*sequences, *beside], parameters=parameters, forward=forward,
                    batch_size=choices.batch_size * answers,
                    micro_batch_tokens=choices.micro_batch_tokens, free_bytes=free_bytes,
                )  # fmt: skip
            found.append(memory)
    return sorted(found, key=lambda invariant: invariant.number)


def probe_files(
    model: PreTrainedModel, renderer: Renderer, *, forward: Forward, note: Callable[[str], None]
) -> dict[str, bytes]:
    """The probe of a version that is about to be saved, as files by name.

    Args:
        model: as trained.
        renderer: of the version, with no limit on the length but the context.
        forward: the path that it was trained on; over sharded weights all processes call this together.
        note: told where the template cannot render some of the conversations.

    Raises:
        TrainingError: a log-probability is not finite.
    """
    probe = make_version_probe(model, renderer, logits=_logits_of(forward))
    if probe.refused:
        note(f"the probe goes without the conversations {', '.join(probe.refused)}: the template cannot render them")
    return probe.files()


def reproduce(folder: Path, model: PreTrainedModel, renderer: Renderer, *, forward: Forward) -> Invariant | None:
    """Hold a loaded version against the probe stored with it; None where none is stored.

    Args:
        folder: of the adapter.
        model: as loaded.
        renderer: as made for it.
        forward: the path that it was trained on, inside its block.

    Raises:
        StorageError: the probe is damaged.
        TrainingError: a log-probability is not finite.
    """
    probe = read_version_probe(folder)
    if probe is None:
        return None
    return check_version_probe(probe, model, renderer, logits=_logits_of(forward))


def first_difference(folder: Path, renderer: Renderer) -> list[str]:
    """The first token that a changed template or tokenizer gives otherwise; empty where no conversation shows it.

    Args:
        folder: of the adapter.
        renderer: as it is now.

    Raises:
        StorageError: the probe is damaged.
    """
    probe = read_version_probe(folder)
    difference = "" if probe is None else text_difference(probe, renderer)
    return [difference] if difference else []


def _logits_of(forward: Forward) -> Forward:
    """The pass that gives logits on the same path, over sharded weights as well."""
    if isinstance(forward, ShardedForward):
        return forward.through(logits_pass(forward.forward))
    return logits_pass(forward)
