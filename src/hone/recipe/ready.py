"""What a training begins from: the base in memory, its rows rendered, every number chosen, and the cost foreseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.loader import LoadedData
from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.engine.parallel import Parallel
from hone.model.load import LoadedModel
from hone.model.machine import resident_memory_bytes
from hone.planning.choose import TrainingChoices
from hone.planning.shape import shape_of
from hone.recipe.adapting import NewTokens, free_bytes, load_base_as, read_new_tokens, require_memory
from hone.recipe.inference import make_renderer
from hone.recipe.method import say_choice
from hone.recipe.placement import Placement, memory_for_training, place_base, require_same_work
from hone.recipe.planned import RunPlan, plan_run
from hone.recipe.planner import choose_numbers
from hone.recipe.policy_options import sequences_to_compute
from hone.recipe.training_rows import RunRows, rows_to_train_on
from hone.registry.runs import RunFolder
from hone.retrieval import PassageIndex
from hone.types import TokenSequence

__all__ = ["Ready", "get_ready"]


@dataclass(frozen=True, slots=True)
class Ready:
    """All that is known before the first weight is added.

    Args:
        config: the options, with what the rows decide.
        place: where the base lies.
        base: plain, on its own attention.
        new_tokens: that are added to it; None for none.
        renderer: of training.
        chosen: the rows.
        choices: the numbers.
        planned: what the run will take; None where nothing predicts it.
    """

    config: TrainConfig
    place: Placement
    base: LoadedModel
    new_tokens: NewTokens | None
    renderer: Renderer
    chosen: RunRows
    choices: TrainingChoices
    planned: RunPlan | None


def get_ready(
    config: TrainConfig,
    loaded: LoadedData,
    *,
    held_out_data: LoadedData | None,
    held_out: float | int | None,
    documents: Callable[[], PassageIndex | None],
    folder: RunFolder,
    home: Path,
    parallel: Parallel,
    recorder: Recorder,
    resumed: bool,
) -> Ready:
    """Load the base, render the rows, choose the numbers and refuse what cannot fit; nothing is trained.

    Args:
        config: the options; what is None is chosen here.
        loaded: the training rows as read.
        held_out_data: rows of the comparison, from a file of their own.
        held_out: rows to set aside for it instead.
        documents: gives the index whose passages are put into training prompts, or None.
        folder: of the run.
        home: hone's home folder.
        parallel: the processes.
        recorder: receives events.
        resumed: a checkpoint is there, so that the cost was foreseen before.

    Raises:
        HoneError: as its parts do.
    """
    note = partial(_note, recorder)
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.model}"}))
    place = place_base(config, parallel, home=home)
    process_bytes, free_before = resident_memory_bytes(), memory_for_training(parallel, parallel.device or place.device)
    base = load_base_as(
        config.model, quantize=config.quantize, home=home, device=place.device, dtype=place.dtype, note=note
    )
    new_tokens = read_new_tokens(config, base, note)
    renderer = make_renderer(base, loaded.examples, max_length=config.max_length, note=note)
    config, chosen = rows_to_train_on(
        config, loaded, base, renderer, held_out_data=held_out_data, held_out=held_out, documents=documents,
        folder=folder, home=home, parallel=parallel, sharded=place.sharded, recorder=recorder,
    )  # fmt: skip
    sequences, validating = sequences_to_compute(config, chosen.rows)
    require_same_work(parallel, base, renderer, [*sequences, *validating])
    choices = _chosen_numbers(
        config, base, chosen, sequences, validating, resumed=folder.config.exists(),
        available_bytes=memory_for_training(parallel, parallel.device or base.device),
    )  # fmt: skip
    for choice in choices.choices:
        say_choice(recorder, choice)
    planned = None
    if parallel.world_size == 1 and not resumed:
        planned = plan_run(
            config, base, choices, train=sequences, validation=validating, process_bytes=process_bytes,
            free_bytes=free_before, home=home, folder=folder, note=note, rows=chosen.rows,
            replay=chosen.replay.sequences,
        )  # fmt: skip
    return Ready(config, place, base, new_tokens, renderer, chosen, choices, planned)


def _note(recorder: Recorder, text: str) -> None:
    recorder.record(Event("note", {"text": text}))


def _chosen_numbers(
    config: TrainConfig, base: LoadedModel, chosen: RunRows, training: Sequence[TokenSequence],
    validating: Sequence[TokenSequence], *, available_bytes: int | None, resumed: bool,
) -> TrainingChoices:  # fmt: skip
    """The numbers that the user left open, of a training that fits into memory."""
    choices = choose_numbers(
        config, shape_of(base.model, context_length=base.context_length), [*training, *validating],
        free_bytes=free_bytes(config, base, available_bytes), bytes_per_value=base.model.dtype.itemsize,
        has_validation=bool(validating), answers=chosen.rows.shape.kind, on_card=base.on_card,
        beside=chosen.replay.sequences, resumed=resumed,
    )  # fmt: skip
    require_memory(config, base, choices, available_bytes)
    return choices
