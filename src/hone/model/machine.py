"""What this machine has: cores, memory, devices, packages. Limits of containers count, not what the hardware has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hone import __version__
from hone.errors import ModelError
from hone.home import hone_home
from hone.model.catalog import DEFAULT_MODEL, EMBEDDED_INSTALL, embedded_gguf
from hone.model.device import explain_dtype, pick_device
from hone.model.extras import needed_packages, optional_extras

__all__ = [
    "available_device_bytes",
    "available_memory_bytes",
    "describe_machine",
    "machine_identity",
    "peak_device_memory_bytes",
    "peak_memory_bytes",
    "resident_memory_bytes",
    "total_memory_bytes",
    "usable_cores",
]

_ROOT = Path("/")
_UNLIMITED_BYTES = 1 << 60  # control groups write "no limit" as a number near 2 ** 63
# Oldest and newest release that hone was tested with; pyproject.toml and constraints.txt say the same.
_SUPPORTED = {"python": ("3.11", "3.13"), "torch": ("2.11", "2.13"), "transformers": ("5.17", "5.23")}
_DISTRIBUTION = "hone-llm"


def usable_cores() -> int:
    """Processor cores that this process may keep busy: its affinity and its container's quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _group_folders("cpu") if (quota := _core_quota(folder)) is not None]
    return max(1, min([cores, *(int(quota) for quota in quotas)]))


def total_memory_bytes() -> int | None:
    """Memory that this process may use in all: the machine's, or its container's limit; None where it is not known."""
    totals = [limit for limit, _ in _group_memory()]
    installed = _installed_memory_bytes()
    if installed is not None:
        totals.append(installed)
    return min(totals, default=None)


def available_memory_bytes() -> int | None:
    """Memory that this process can still get without swapping; None where the system does not tell."""
    candidates = [max(0, limit - used) for limit, used in _group_memory()]
    machine = _machine_available_bytes()
    if machine is not None:
        candidates.append(machine)
    return min(candidates, default=None)


def available_device_bytes(device: str) -> int | None:
    """Memory that tensors on ``device`` can still get: the card's on CUDA, the machine's otherwise."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()


def peak_memory_bytes() -> int:
    """The most memory that this process has occupied so far (resident set, host memory only)."""
    if sys.platform == "win32":
        return 0  # the system has no equal in Python's library
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kibibytes, macOS bytes


def resident_memory_bytes() -> int:
    """The memory that this process occupies now; its peak so far where the system does not tell."""
    words = " ".join(_lines(Path("/proc/self/statm"))).split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else peak_memory_bytes()


def machine_identity(device: str) -> dict[str, Any]:
    """What the speed of ``device`` depends on: its name, cores and threads, and the libraries that compute on it."""
    is_card = torch.device(device).type == "cuda"
    return {
        "name": torch.cuda.get_device_name(device) if is_card else _processor_name(),
        "device": torch.device(device).type,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
    }


def peak_device_memory_bytes(device: str) -> int:
    """The most memory that tensors have occupied on ``device`` so far; 0 for the processor, whose memory is the host's.

    On MPS, which keeps no peak, what is occupied now.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if kind == "mps":
        return int(torch.mps.driver_allocated_memory())
    return 0


def describe_machine(home: Path | None = None) -> dict[str, Any]:
    """What `hone doctor` shows, as plain JSON values; ``problems`` has one line for each thing to mend.

    Args:
        home: hone's home folder; None for the one in force.
    """
    home = home or hone_home()
    chosen = pick_device()
    dtype, why = explain_dtype(chosen)
    packages = [_package(name) for name in ("python", "torch", "transformers")]
    extras, needed = optional_extras(), needed_packages()
    embedded = _embedded_base()
    disk = _disk(home)
    problems = [f"{item['name']} {item['version']}: {item['note']}" for item in packages if not item["supported"]]
    problems += _older_than_asked_for()
    if not embedded["installed"]:
        problems.append(f"the embedded base is not installed: {embedded['install']}")
    if not disk["writable"]:
        problems.append(f"the home folder {home} cannot be written: set HONE_HOME to one that can")
    problems += [f"{e['name']} is missing ({e['for']}): {e['install']}" for e in needed if not e["installed"]]
    return {
        "hone": __version__,
        "system": {"name": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "processor": {
            "name": _processor_name(),
            "cores_usable": usable_cores(),
            "cores_present": os.cpu_count(),
            "threads_of_torch": torch.get_num_threads(),
        },
        "memory": {"total_bytes": total_memory_bytes(), "available_bytes": available_memory_bytes()},
        "devices": _devices(),
        "chosen": {"device": chosen, "dtype": str(dtype).removeprefix("torch."), "why": why},
        "packages": packages,
        "extras": extras,
        "needed": needed,
        "embedded_base": embedded,
        "home": disk,
        "problems": problems,
    }


def _devices() -> list[dict[str, Any]]:
    names: list[tuple[str, str, int | None, int | None]] = [
        ("cpu", _processor_name(), total_memory_bytes(), available_memory_bytes())
    ]
    if torch.backends.mps.is_available():
        names.append(("mps", "Apple GPU", int(torch.mps.recommended_max_memory()), None))
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        names.append((f"cuda:{index}", torch.cuda.get_device_name(index), total, free))
    devices = []
    for device, name, total_bytes, free_bytes in names:
        dtype, why = explain_dtype(device)
        described = {"device": device, "name": name, "memory_bytes": total_bytes, "free_bytes": free_bytes}
        devices.append({**described, "dtype": str(dtype).removeprefix("torch."), "why": why})
    return devices


def _package(name: str) -> dict[str, Any]:
    oldest, newest = _SUPPORTED[name]
    version = platform.python_version() if name == "python" else importlib.metadata.version(name)
    numbers = _numbers(version)
    if numbers[:2] < _numbers(oldest):
        return {"name": name, "version": version, "supported": False, "note": f"too old; hone needs {oldest} or newer"}
    note = "" if numbers[:2] <= _numbers(newest) else f"newer than {newest}, the newest that hone was tested with"
    # a later major release may have changed anything
    supported = numbers[0] == _numbers(newest)[0]
    return {"name": name, "version": version, "supported": supported, "note": note}


def _older_than_asked_for() -> list[str]:
    """A line for each further package that is there and older than hone's own metadata asks for."""
    try:
        asked = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed says nothing of its needs
        return []
    lines = []
    for requirement in asked:
        found = re.match(r"(?P<name>[\w.-]+)[^;]*>=\s*(?P<oldest>[\d.]+)", requirement)
        if found is None or found["name"] in _SUPPORTED:
            continue
        with suppress(importlib.metadata.PackageNotFoundError):  # one of a part that is not installed
            version, oldest = importlib.metadata.version(found["name"]), found["oldest"]
            if _padded(_numbers(version)) < _padded(_numbers(oldest)):
                mend = f"pip install '{found['name']}>={oldest}'"
                lines.append(f"{found['name']} {version}: too old; hone needs {oldest} or newer: {mend}")
    return lines


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (*numbers, 0, 0, 0)[:3]


def _embedded_base() -> dict[str, Any]:
    try:
        path: str | None = str(embedded_gguf())
    except ModelError:
        path = None
    return {"name": DEFAULT_MODEL, "installed": path is not None, "path": path, "install": EMBEDDED_INSTALL}


def _disk(home: Path) -> dict[str, Any]:
    existing = home.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    return {
        "path": str(home), "exists": home.is_dir(), "writable": os.access(existing, os.W_OK), "free_bytes": free_bytes
    }  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _processor_name() -> str:
    for line in _lines(_ROOT / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _installed_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _machine_available_bytes() -> int | None:
    for line in _lines(_ROOT / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        text = _output("vm_stat")
        pages = {key: int(value) for key, value in re.findall(r"Pages (free|inactive|speculative):\s+(\d+)", text)}
        return sum(pages.values()) * os.sysconf("SC_PAGE_SIZE") if pages else None
    return None


def _group_folders(controller: str) -> list[Path]:
    """The control groups of this process for ``controller``, innermost first, in version 1 and 2 of the hierarchy.

    A limit of any of them binds. Inside a container the path that the kernel names may lie outside of what is mounted;
    the root of the mount is then the container's own group.
    """
    folders: list[Path] = []
    for line in _lines(_ROOT / "proc/self/cgroup"):
        _, controllers, path = [*line.strip().split(":", 2), "", ""][:3]
        if controllers == "":
            mount = _ROOT / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = _ROOT / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            folders.append(folder)
            folder = folder.parent
        folders.append(mount)
    return folders


def _core_quota(folder: Path) -> float | None:
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota / period if quota and quota > 0 and period else None
    return None if words[0] == "max" else int(words[0]) / int(words[1])


def _group_memory() -> list[tuple[int, int]]:
    """(limit, used) in bytes of each control group that limits memory; file caches, which give way, are not used."""
    found = []
    for folder in _group_folders("memory"):
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is None:
            limit = _number(folder / "memory.limit_in_bytes")
            used = _number(folder / "memory.usage_in_bytes")
        if limit is None or limit >= _UNLIMITED_BYTES:
            continue
        statistics = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) >= 2)
        cache = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
        found.append((limit, max(0, (used or 0) - cache)))
    return found


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
