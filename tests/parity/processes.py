"""What the processes of test_many_processes.py do: each trains its part of every case, and writes what came of it.

    RANK=0 ... python -m tests.parity.processes FOLDER PORT PORT ...

Three of them are started once, with a port for each case. A case of two leaves the third waiting for the next one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.engine.checkpoint import load_newest_checkpoint
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.engine.parallel import ALONE, Parallel, process_group
from hone.engine.sharding import shard_model
from hone.engine.step import mean_loss
from hone.errors import HoneError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import adapter_parameters
from hone.objective.supervised import supervised_loss
from tests.tiny import attach_random_adapter, tiny_model, token_rows

MOST = 3
ROWS = token_rows([19, 5, 28, 11, 9, 16, 22, 7, 13], seed=1)
VALIDATION = token_rows([12, 20, 9, 15], seed=2)
# 3 steps a pass, of 4, 4 and 1 rows: in the last one some process has no row
SETTINGS = LoopSettings(
    batch_size=4, epochs=3, max_steps=None, learning_rate=1e-3, warmup_share=0.2, weight_decay=0.01,
    max_gradient_norm=0.5, micro_batch_tokens=30, seed=5, evaluate_every_steps=3, patience=None, save_every_steps=2,
    keep_checkpoints=0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training run.

    Args:
        world_size: processes; 1 is run by the test itself.
        family: of the tiny model; qwen2 has tied embeddings.
        full: all parameters are trained, and not an adapter.
        sharded: weights are sharded.
        stop_after: the last process alone is told to stop after this step.
        break_at: the last process alone computes a loss that is not a number, in this step.
        resume: the case whose checkpoints it goes on from, in its folder.
        unwritable: the checkpoints' folder is below a file.
    """

    world_size: int
    family: str = "llama"
    full: bool = False
    sharded: bool = False
    stop_after: int | None = None
    break_at: int | None = None
    resume: str | None = None
    unwritable: bool = False


CASES = {
    "lora of two": Case(2),
    "lora of three": Case(3),
    "lora sharded over two": Case(2, sharded=True),
    "lora sharded over three": Case(3, sharded=True),
    "all of two": Case(2, "qwen2", full=True),
    "all sharded over two": Case(2, full=True, sharded=True),
    "all sharded over two, tied": Case(2, "qwen2", full=True, sharded=True),
    "lora stopped": Case(2, stop_after=4),
    "lora gone on with by three": Case(3, resume="lora stopped"),
    "all stopped": Case(3, "qwen2", full=True, sharded=True, stop_after=4),
    "all gone on with by two": Case(2, "qwen2", full=True, sharded=True, resume="all stopped"),
    "lora of one gone on with by two": Case(2, sharded=True, resume="one stopped"),
    "not a number": Case(2, break_at=5),
    "unwritable": Case(2, unwritable=True),
    # the last ones: afterwards a process is gone
    "different files": Case(2),
    "lost": Case(2),
}


@dataclass
class Heard:
    """A recorder that keeps events, and knows the step that is being computed."""

    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)


def run_case(name: str, case: Case, folder: Path, parallel: Parallel = ALONE) -> dict[str, Any]:
    """Train as ``case`` says; what came of it as JSON, its weights in a file.

    Args:
        name: of the case; its checkpoints lie in the folder of this name, or of the case that it resumes.
        case: what to do.
        folder: of all cases.
        parallel: the processes.
    """
    model = tiny_model(case.family, num_hidden_layers=2)
    if case.full:
        model.requires_grad_(True)
    else:
        attach_random_adapter(model)
    heard, seen = Heard(), [0]
    checkpoints = folder / (case.resume or name) / "checkpoints"
    if case.unwritable and parallel.is_first:
        checkpoints.parent.write_text("a file", encoding="utf-8")
    last = parallel.rank == parallel.world_size - 1

    def step() -> int:
        return seen[0] + 1

    def stop() -> bool:
        seen[0] += 1
        return last and seen[0] == case.stop_after

    def breaking(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        logprobs_S = packed_logprobs(model, batch)
        return logprobs_S * float("nan") if last and torch.is_grad_enabled() and step() == case.break_at else logprobs_S

    result: dict[str, Any] = {"error": None}
    with packed_attention_enabled(model):
        forward, joined = breaking, parallel
        if case.sharded and parallel.world_size > 1:
            kept = [] if case.full else list(adapter_parameters(model).values())
            forward, joined = shard_model(model, breaking, parallel, replicated=kept)
        parameters = dict(model.named_parameters()) if case.full else adapter_parameters(model)
        held = [pack([row]) for row in VALIDATION[:3]]
        checkpoint = None
        if case.resume and parallel.is_first:
            checkpoint, _ = load_newest_checkpoint(checkpoints)
        try:
            train(
                model, ROWS, parameters=parameters, forward=forward, objective=supervised_loss,
                settings=replace(SETTINGS, learning_rate=1e-4) if case.full else SETTINGS,
                evaluate=lambda: mean_loss(
                    model, held, forward=forward, objective=supervised_loss, parallel=joined
                ),
                recorder=heard, checkpoints=checkpoints, resume_from=checkpoint, should_stop=stop, parallel=joined,
            )  # fmt: skip
        except HoneError as error:
            result["error"] = [type(error).__name__, error.what, *error.details]
        weights = _full(parameters)
    save_file(weights, folder / f"{name}.{parallel.rank}.safetensors")
    result["events"] = [[event.kind, dict(event.data)] for event in heard.events]
    return result


def _full(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole = {name: getattr(tensor, "full_tensor", lambda t=tensor: t)() for name, tensor in parameters.items()}
    return {name: tensor.detach().clone() for name, tensor in whole.items()}


def _take_part(name: str, case: Case, folder: Path) -> dict[str, Any]:
    with process_group("cpu") as parallel:
        if name == "different files":
            parallel.require_same({"base": "abc", "rows": 10 + parallel.rank})
        if name == "lost" and parallel.rank == 1:
            os._exit(0)
        return run_case(name, case, folder, parallel)


def main(folder: Path, ports: list[str]) -> None:
    """Work through all cases."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for (name, case), port in zip(CASES.items(), ports, strict=True):
        if rank >= case.world_size:
            continue
        os.environ.update(WORLD_SIZE=str(case.world_size), MASTER_PORT=port)
        try:
            result = _take_part(name, case, folder)
        except HoneError as error:
            result = {"error": [type(error).__name__, error.what, *error.details], "events": []}
        (folder / f"{name}.{rank}.json").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
