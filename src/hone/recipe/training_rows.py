"""What a run trains on: the rows of the data, passages in some of their prompts, and general rows beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.answers import AnswerRenderer
from hone.data.loader import LoadedData
from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.engine.parallel import Parallel
from hone.model.load import LoadedModel
from hone.recipe.method import is_policy_method
from hone.recipe.replay import Replay, begin_replay, choose_replay, store_replay
from hone.recipe.rows import PreparedRows, prepare_rows
from hone.recipe.training_passages import TrainingPassages, rows_with_passages, store_passages
from hone.registry.runs import RunFolder
from hone.retrieval import PassageIndex
from hone.types import JsonDict

__all__ = ["RunRows", "rows_to_train_on"]


@dataclass(frozen=True, slots=True)
class RunRows:
    """All rows of a run.

    Args:
        rows: of the data.
        replay: general rows beside them.
        passages: what was put into training prompts; None without documents.
    """

    rows: PreparedRows
    replay: Replay
    passages: TrainingPassages | None

    def store(self, folder: RunFolder, base: LoadedModel) -> None:
        """Write what is not in the data: general rows and passages.

        Args:
            folder: of the run.
            base: its tokenizer gives the texts of general rows.

        Raises:
            StorageError: no space or no permission.
        """
        store_replay(folder, base, self.replay)
        if self.passages is not None:
            store_passages(folder, self.passages)

    def to_json(self) -> JsonDict:
        """What a result's ``training`` says of them."""
        return {"replay": self.replay.to_json(), "passages": None if self.passages is None else self.passages.facts}


def rows_to_train_on(
    config: TrainConfig,
    loaded: LoadedData,
    base: LoadedModel,
    renderer: Renderer,
    *,
    held_out_data: LoadedData | None,
    held_out: float | int | None,
    documents: Callable[[], PassageIndex | None],
    folder: RunFolder,
    home: Path,
    parallel: Parallel,
    sharded: bool,
    recorder: Recorder,
) -> tuple[TrainConfig, RunRows]:
    """Render the data, set rows aside, and add what is trained on with them.

    Args:
        config: the options.
        loaded: the training rows as read.
        base: plain, on its own attention.
        renderer: of training.
        held_out_data: rows of the comparison, from a file of their own.
        held_out: rows to set aside for it instead.
        documents: gives the index whose passages are put into prompts of supervised fine-tuning, or None.
        folder: of the run.
        home: hone's home folder.
        parallel: the processes.
        sharded: whether the base is split over them.
        recorder: receives events.

    Returns:
        The options with the number of general rows, and the rows.

    Raises:
        HoneError: as its parts do.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    recorder.record(Event("stage", {"name": "data", "detail": f"rendering {len(loaded.examples)} rows"}))
    rows = prepare_rows(
        loaded, AnswerRenderer(renderer), held_out_data=held_out_data, held_out=held_out,
        validation=0 if is_policy_method(config.method) else config.validation, seed=config.rows_seed, note=note,
    )  # fmt: skip
    if config.method not in (None, "sft"):
        choose_replay(config, len(rows.train))  # refuses what nothing would read
        return config.model_copy(update={"general_rows": 0}), RunRows(rows, Replay(), None)
    rows, passages = rows_with_passages(
        rows, documents, renderer, folder=folder, seed=config.rows_seed, parallel=parallel
    )
    if passages is not None:
        note(passages.describe(len(rows.train)))
    config, replay = begin_replay(
        config, base, renderer, rows, folder=folder, home=home, parallel=parallel, sharded=sharded, recorder=recorder
    )
    return config, RunRows(rows, replay, passages)
