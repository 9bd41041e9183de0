"""Inside a measured process: when each step ended, what it lost, what memory it took, whether the adapter moved."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from side_by_side.spec import Spec

REPORTED_PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "hone-llm", "llamafactory", "soup-cli"
)  # fmt: skip


class Meter:
    """Collects the figures of one measurement and writes them.

    Args:
        spec: the measurement.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.step_ends: list[float] = []
        self.losses: list[float] = []
        self.flags: dict[str, Any] = {}
        self.notes: list[str] = []
        self.after: dict[str, Tensor] = {}

    @property
    def captures_gradients(self) -> bool:
        """Whether this process is here for its first gradient, and its clock is not looked at."""
        return bool(self.spec.gradients)

    def step_ended(self) -> None:
        """Call at the end of every optimizer step."""
        self.step_ends.append(time.time() - self.spec.spawned_at)

    def take_gradients(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Store the gradients of the adapter, once, after the first backward pass of a whole step."""
        import torch
        from safetensors.torch import save_file

        if not self.captures_gradients or Path(self.spec.gradients).exists():
            return
        found = {
            canonical(name): (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).detach().float().clone()
            for name, tensor in parameters
            if tensor.requires_grad
        }
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, self.spec.gradients)

    def take_adapter(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Remember the trained tensors, to tell whether they moved."""
        self.after = {canonical(name): tensor.detach().float() for name, tensor in parameters if tensor.requires_grad}

    def write(self) -> None:
        """Leave the figures for the process that asked."""
        figures = {
            "step_ends_seconds": self.step_ends,
            "losses": self.losses,
            "peak_rss_bytes": peak_rss_bytes(),
            "moved": self._moved(),
            "flags": self.flags,
            "notes": self.notes,
            "versions": versions(),
            "threads": threads(),
        }
        Path(self.spec.result).write_text(json.dumps(figures, ensure_ascii=False), encoding="utf-8")

    def _moved(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        start = {
            canonical(name): tensor
            for name, tensor in load_file(Path(self.spec.adapter) / "adapter_model.safetensors").items()
        }
        changes = {
            name: float((self.after[name] - tensor).abs().max()) for name, tensor in start.items() if name in self.after
        }
        return {
            "tensors": len(start),
            "trained": len(changes),
            "unknown": len(set(self.after) - set(start)),
            "moved": sum(change > 0 for change in changes.values()),
        }


def canonical(name: str) -> str:
    """The name of an adapter tensor without what PEFT, its files or a wrapper put around it."""
    name = re.sub(r"^(module\.|base_model\.model\.)+", "", name)
    return re.sub(r"\.(default\.)?weight$", "", name)


def peak_rss_bytes() -> int:
    """The most memory this process has occupied.

    Linux keeps it per address space (VmHWM); ``ru_maxrss`` would count the parent's memory at the fork as well.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of what did the work."""
    found = {"python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def threads() -> dict[str, Any]:
    """Threads that the process was allowed, and those that torch ended up with."""
    import torch

    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"), "torch": torch.get_num_threads()}
