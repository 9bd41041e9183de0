"""The beginning of every method: from a base with a fresh adapter and rendered rows to what the loop needs."""

from __future__ import annotations

from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.render import Renderer
from hone.engine.events import Event, Recorder
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.proof.invariant import require_all
from hone.recipe.general_rows import held_to_base
from hone.recipe.method import Method, is_policy_method, supervised_method
from hone.recipe.policy import policy_method
from hone.recipe.preference import preference_method
from hone.recipe.replay import Replay
from hone.recipe.reward import reward_method
from hone.recipe.rows import PreparedRows

__all__ = ["begin_method"]


def begin_method(
    config: TrainConfig,
    base: LoadedModel,
    rows: PreparedRows,
    *,
    forward: Forward,
    max_tokens: int,
    home: Path,
    recorder: Recorder,
    renderer: Renderer,
    replay: Replay | None = None,
) -> Method:
    """The method that ``config`` names, its own invariants checked.

    Args:
        config: the options.
        base: with a fresh adapter, inside the block of ``forward``.
        rows: as prepared.
        forward: the path that training takes.
        max_tokens: tokens computed at once.
        home: hone's home folder.
        recorder: receives events.
        renderer: of the rows.
        replay: general rows, for supervised fine-tuning.

    Raises:
        DataError: no answers are left to learn from.
        ProofError: the first loss is not what the base alone gives.
        ConfigError: a reward cannot be used.
    """
    name = config.method
    if name is None or name == "sft":
        if replay is None or not replay.holds:
            return supervised_method(rows, forward, replay=() if replay is None else replay.sequences)
        return held_to_base(supervised_method(rows, forward), replay.sequences, max_tokens=max_tokens)
    if name == "reward":
        method = reward_method(base, rows, forward=forward, max_tokens=max_tokens)
    elif is_policy_method(name):
        method = policy_method(
            config, name, base, rows, renderer=renderer, forward=forward, max_tokens=max_tokens, home=home,
            recorder=recorder,
        )  # fmt: skip
    else:

        def progress(done: int, total: int) -> None:
            recorder.record(Event("progress", {"task": "reference", "done": done, "total": total}))

        recorder.record(
            Event("stage", {"name": "reference", "detail": "log-probabilities of all answers under the base"})
        )
        method = preference_method(
            config, name, base, rows, forward=forward, max_tokens=max_tokens, home=home, progress=progress
        )
    require_all(method.proof)
    return method
