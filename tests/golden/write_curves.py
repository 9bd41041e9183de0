"""Writes curves.json, the loss curves of short runs: ``python -m tests.golden.write_curves --reason "..."``.

A curve is a promise about the numbers of training. It changes only with a reason, which is stored beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.lora import adapter_parameters, attach_adapter
from hone.objective.supervised import supervised_loss
from hone.recipe.inference import training_path
from hone.types import TokenSequence
from tests.tiny import FAMILIES, tiny_model, token_rows

GOLDEN = Path(__file__).with_name("curves.json")
SETTINGS = LoopSettings(
    batch_size=3,
    epochs=2,
    max_steps=None,
    learning_rate=5e-3,
    warmup_share=0.2,
    weight_decay=0.01,
    max_gradient_norm=1.0,
    micro_batch_tokens=70,
    seed=11,
    evaluate_every_steps=10**6,
    patience=None,
    save_every_steps=None,
    keep_checkpoints=1,
)
_PREFIX = tuple(range(200, 224))
# ragged rows, the last three with a prefix in common
ROWS = [
    *token_rows([23, 9, 31, 12, 40, 17]),
    *[
        TokenSequence(_PREFIX + row.ids, (False,) * len(_PREFIX) + row.supervised, row.row)
        for row in token_rows([8, 15, 5], seed=1)
    ],
]


class _Steps:
    """Losses and gradient norms of the steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def record(self, event: Event) -> None:
        """Keep what a step tells."""
        if event.kind == "step":
            self.losses.append(event.data["loss"])
            self.norms.append(event.data["gradient_norm"])


def curve(family: str, *, reference: bool = False) -> dict[str, list[float]]:
    """Losses and gradient norms of six steps of ``family``, in float32, on the path that users take."""
    model = tiny_model(family)
    attach_adapter(model, rank=4, alpha=8.0, seed=3)
    forward, path = training_path(model, reference=reference)
    steps = _Steps()
    with path, tempfile.TemporaryDirectory() as folder:
        train(
            model, ROWS, parameters=adapter_parameters(model), forward=forward, objective=supervised_loss,
            settings=SETTINGS, evaluate=None, recorder=steps, checkpoints=Path(folder),
        )  # fmt: skip
    return {"losses": steps.losses, "gradient_norms": steps.norms}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reason", required=True, help="why the numbers of training change")
    reason = parser.parse_args().reason
    before = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {"reasons": []}
    curves = {family: curve(family) for family in FAMILIES}
    content = {"reasons": [*before["reasons"], reason], "curves": curves}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
