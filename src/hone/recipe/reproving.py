"""What of the proof can be measured on a loaded version: that it is as it was saved, and that merging keeps it so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hone.errors import ModelError
from hone.proof.invariant import Invariant
from hone.proof.postflight import check_merged, check_probe, is_of_dtype, stored_rows_logprobs
from hone.recipe.inference import Answerer, training_path
from hone.recipe.run_files import PROBE_FILE

__all__ = ["measure_merged", "measure_reloaded"]


def measure_reloaded(answerer: Answerer) -> list[Invariant]:
    """Invariant 10, on rows of the training and on the probe's conversations, as far as they are stored.

    Args:
        answerer: as loaded.

    Raises:
        TrainingError: some log-probability is not finite.
    """
    probe = _probe_of(answerer)
    if probe is None or not is_of_dtype(probe, answerer.base.model.dtype):
        return [] if answerer.reproduced is None else [answerer.reproduced]
    forward, path = training_path(answerer.base.model, reference=answerer.reference_path)
    with path:
        rows = check_probe(probe, answerer.base.model, forward=forward)
    conversations = answerer.reproduced
    if conversations is None:
        return [rows]
    remedy = conversations.remedy if rows.holds else rows.remedy
    both = f"{rows.checked}; {conversations.checked}: {conversations.measured:.2g}, {conversations.bound}"
    return [
        replace(
            rows,
            holds=rows.holds and conversations.holds,
            checked=both,
            remedy=remedy,
            found=conversations.found or rows.found,
        )
    ]


def measure_merged(answerer: Answerer) -> list[Invariant]:
    """Invariant 11, by merging in memory: the model is a plain one afterwards. Nothing where it cannot be merged.

    Args:
        answerer: as loaded; it cannot answer as its base any more.

    Raises:
        TrainingError: some log-probability is not finite.
    """
    probe = _probe_of(answerer)
    if probe is None or answerer.adaptation is None:
        return []
    model = answerer.base.model
    forward, path = training_path(model, reference=answerer.reference_path)
    with path:
        tuned_S = stored_rows_logprobs(probe, model, forward=forward)
    try:
        answerer.adaptation.merge()
    except ModelError:
        return []  # a base in 4 bits holds no sum
    forward, path = training_path(model, reference=answerer.reference_path)
    with path:
        return [check_merged(probe, model, tuned_S=tuned_S, forward=forward)]


def _probe_of(answerer: Answerer) -> Path | None:
    if answerer.run_folder is None or not (answerer.run_folder / PROBE_FILE).exists():
        return None
    return answerer.run_folder / PROBE_FILE
