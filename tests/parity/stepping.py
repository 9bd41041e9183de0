"""Three optimizer steps of hone's loop and of a plain loop over transformers' own loss, for any way of adapting."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hone.engine.events import Event
from hone.engine.loop import LoopResult, LoopSettings, train
from hone.model.adaptation import Adaptation
from hone.model.forward import Forward, packed_logprobs
from hone.objective.supervised import supervised_loss
from hone.recipe.inference import training_path
from hone.types import TokenSequence
from tests.tiny import token_rows

ROWS = token_rows([31, 9, 22, 40, 14, 27, 18, 35, 12], seed=7)
BATCH, STEPS, SEED, BOUND = 3, 3, 3, 0.5


class Losses(list[float]):
    """A recorder of the losses of steps."""

    def record(self, event: Event) -> None:
        if event.kind == "step":
            self.append(event.data["loss"])


def settings(rate: float, **changed: Any) -> LoopSettings:
    """Three steps at a falling rate; every step is accumulated from micro-batches."""
    values: dict[str, Any] = {
        "batch_size": BATCH, "epochs": 1, "max_steps": STEPS, "learning_rate": rate, "warmup_share": 0.0,
        "weight_decay": 0.01, "max_gradient_norm": BOUND, "micro_batch_tokens": 50, "seed": SEED,
        "evaluate_every_steps": 100, "patience": None, "save_every_steps": None, "keep_checkpoints": 1,
    }  # fmt: skip
    return LoopSettings(**{**values, **changed})


def hone_steps(
    adaptation: Adaptation,
    folder: Path,
    *,
    rate: float,
    ratio: float = 1.0,
    forward: Forward = packed_logprobs,
    rows: list[TokenSequence] = ROWS,
    **further: Any,
) -> tuple[Losses, LoopResult]:
    """Train with hone's loop, and give the loss of each step."""
    losses = Losses()
    model = adaptation.model
    with training_path(model, reference=forward is not packed_logprobs)[1]:
        result = train(
            model, rows, parameters=adaptation.parameters(), forward=forward, objective=supervised_loss,
            settings=further.pop("settings", settings(rate)), evaluate=None, recorder=losses,
            checkpoints=folder / "checkpoints", rate_factors=adaptation.rate_factors(ratio),
            refresh=adaptation.refresh, **further,
        )  # fmt: skip
    return losses, result


def plain_steps(
    model: nn.Module, trainable: Iterable[nn.Parameter], *, rate: float, optimizer: torch.optim.Optimizer | None = None
) -> list[float]:
    """The same with padded rows, transformers' loss, torch's optimizer and schedule; the loss of each step."""
    members = list(trainable)
    optimizer = optimizer or torch.optim.AdamW(members, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: (STEPS - done) / STEPS)
    order = list(range(len(ROWS)))
    random.Random(f"hone-order-{SEED}-0").shuffle(order)
    losses = []
    for start in range(0, len(ROWS), BATCH):
        batch = padded([ROWS[index] for index in order[start : start + BATCH]])
        optimizer.zero_grad()
        supervised = int((batch["labels"][:, 1:] != -100).sum())
        loss = model(**batch, num_items_in_batch=supervised, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(members, BOUND)
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
    return losses


def padded(rows: list[TokenSequence]) -> dict[str, Tensor]:
    """Rows as transformers takes them: padded on the right, -100 where there is no loss."""
    longest = max(len(row.ids) for row in rows)
    ids, mask, labels = [], [], []
    for row in rows:
        padding = longest - len(row.ids)
        ids.append([*row.ids, *[0] * padding])
        mask.append([1] * len(row.ids) + [0] * padding)
        marked = [token if flag else -100 for token, flag in zip(row.ids, row.supervised, strict=True)]
        labels.append([*marked, *[-100] * padding])
    named = (("input_ids", ids), ("attention_mask", mask), ("labels", labels))
    return {name: torch.tensor(value) for name, value in named}


def assert_all_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bound: float = 1e-5) -> None:
    """Every tensor of ``found`` equals that of ``expected``, whatever else that has."""
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor.detach(), expected[name].detach(), atol=bound, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
