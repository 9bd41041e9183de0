"""The machine in words that name nobody's: processor features, cores, memory; and how much of it others took."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve", "i8mm")


def describe() -> dict[str, Any]:
    """Architecture, features that matter to matrix products, cores, memory."""
    cpuinfo = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() in ("flags", "Features"):
                flags |= set(line.partition(":")[2].split())
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = 0
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "features": [feature for feature in _FEATURES if feature in flags],
        "cores": usable_cores(),
        "memory_bytes": memory,
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Others:
    """The share of the cores that processes other than ours kept busy; None where the system does not tell.

    Begin before a child is started, ask after it has ended.
    """

    def __init__(self) -> None:
        self._busy, self._own, self._at = _busy_seconds(), _own_seconds(), time.monotonic()

    def share(self) -> float | None:
        """Between 0 and 1, since the beginning."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        room = (time.monotonic() - self._at) * (os.cpu_count() or 1)
        return max(0.0, (busy - self._busy) - (_own_seconds() - self._own)) / room


def _busy_seconds() -> float | None:
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(word) for word in path.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    idle = sum(ticks[3:5])  # waiting for a disk is idle too
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
