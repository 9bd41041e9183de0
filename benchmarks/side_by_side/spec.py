"""What one measurement is told and what it reads: a JSON file for the process, a JSON file of rows for every system.

Nothing here imports more than Python's library: the peers' environments hold neither hone nor its dependencies.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

IGNORED_LABEL = -100  # transformers' mark for a token without loss


@dataclass(frozen=True)
class Spec:
    """One measurement.

    Args:
        system: a name in ``systems.SYSTEMS``, such as ``trl/best``.
        driver: the module that runs it.
        settings: its own settings, see ``systems.py``.
        model: folder of the base in safetensors, with its tokenizer.
        adapter: folder of the adapter to start from, in PEFT's format.
        rows: the workload's file.
        steps: optimizer steps to take; the workload may hold more.
        learning_rate: peak; falls linearly to zero just after the last step, no warm-up.
        max_gradient_norm: clipping bound.
        dtype: ``bfloat16`` or ``float32``: of the weights, or of the computation where a system keeps float32 weights.
        threads: of the computation.
        gradients: file that receives the first step's gradients; empty where speed is measured.
        scratch: a folder for whatever the system writes.
        result: file that receives the figures.
        spawned_at: ``time.time()`` at which the process was started.
    """

    system: str
    driver: str
    settings: dict[str, Any]
    model: str
    adapter: str
    rows: str
    steps: int
    learning_rate: float
    max_gradient_norm: float
    dtype: str
    threads: int
    gradients: str
    scratch: str
    result: str
    spawned_at: float = 0.0

    def write(self, path: Path) -> None:
        """Leave the spec for the process to come."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Spec:
        """What :meth:`write` left."""
        return Spec(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Workload:
    """Rows in the order in which they are trained on: step by step, ``rows_per_step`` each.

    Args:
        name: such as ``W1 support``.
        rows_per_step: rows of one optimizer step.
        ids: token ids of each row.
        labels: the same ids where a token is supervised, else ``IGNORED_LABEL``; never at the first token of a row.
        warmup_steps: steps that are not timed.
        facts: what the page says of it.
    """

    name: str
    rows_per_step: int
    ids: list[list[int]]
    labels: list[list[int]]
    warmup_steps: int
    facts: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(path: str | Path) -> Workload:
        """The workload in a file that :meth:`write` made."""
        return Workload(**json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Dump token ids and label masks, once for all systems."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @property
    def steps(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return len(self.ids) // self.rows_per_step

    def rows_of(self, step: int) -> range:
        """Indices of the rows of ``step``, from 0."""
        return range(step * self.rows_per_step, (step + 1) * self.rows_per_step)

    def tokens(self, step: int) -> int:
        """Real tokens of ``step``, from 0: those of its rows, whatever a system pads or shares."""
        return sum(len(self.ids[index]) for index in self.rows_of(step))

    def supervised(self, step: int) -> int:
        """Tokens of ``step`` that carry loss."""
        return sum(label != IGNORED_LABEL for index in self.rows_of(step) for label in self.labels[index])

    def micro_rows(self, micro_tokens: int | None) -> int:
        """Rows of a padded micro-batch: the most that divide a step and stay within ``micro_tokens``, at least one."""
        if micro_tokens is None:
            return self.rows_per_step
        longest = max(len(ids) for ids in self.ids)
        fitting = [rows for rows in range(1, self.rows_per_step + 1) if self.rows_per_step % rows == 0]
        return max([rows for rows in fitting if rows * longest <= micro_tokens], default=1)

    def in_order(self, *, steps: int, longest_first: bool) -> list[int]:
        """Row indices of the first ``steps`` steps; rows never leave their step."""
        order: list[int] = []
        for step in range(steps):
            rows = list(self.rows_of(step))
            if longest_first:
                rows.sort(key=lambda index: -len(self.ids[index]))
            order += rows
        return order
