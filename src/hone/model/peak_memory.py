"""How much memory a piece of work takes at its peak, apart from what the process took before it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from hone.model.allocator import give_back_freed_memory
from hone.model.machine import available_device_bytes, peak_device_memory_bytes, peak_memory_bytes

__all__ = ["PeakMemory", "watched_memory"]

_PERIOD_SECONDS = 0.002
_STATM = Path("/proc/self/statm")


@dataclass(slots=True)
class PeakMemory:
    """Memory around a piece of work, in bytes, of the device or, for the processor, of this process.

    Args:
        before: occupied when it began.
        free: what could still be had then; None where the system does not tell.
        peak: the most that was occupied; 0 until the work is done.
    """

    before: int
    free: int | None
    peak: int = 0


@contextmanager
def watched_memory(device: str) -> Iterator[PeakMemory]:
    """Watch the memory of the block; ``peak`` stands when it is left.

    On CUDA it is the allocator's own peak, which begins anew here. On a processor under Linux the resident set is read
    every two milliseconds. Elsewhere it is the highest mark of the whole process so far: an upper bound.

    Args:
        device: on which the work computes.
    """
    kind = torch.device(device).type
    free = available_device_bytes(device)
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        # what the allocator keeps for itself can be had as well
        kept = torch.cuda.memory_reserved(device) - before
        memory = PeakMemory(before, None if free is None else free + kept)
    else:
        give_back_freed_memory()
        memory = PeakMemory(_resident_bytes() if kind == "cpu" else peak_device_memory_bytes(device), free)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(memory, done), daemon=True)
    sampled = kind == "cpu" and sys.platform == "linux"
    if sampled:
        watcher.start()
    try:
        yield memory
    finally:
        done.set()
        if sampled:
            watcher.join()
        else:
            memory.peak = peak_memory_bytes() if kind == "cpu" else peak_device_memory_bytes(device)


def _watch(memory: PeakMemory, done: threading.Event) -> None:
    while True:
        ended = done.wait(_PERIOD_SECONDS)
        memory.peak = max(memory.peak, _resident_bytes())
        if ended:
            return


def _resident_bytes() -> int:
    with suppress(OSError):
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory_bytes()
