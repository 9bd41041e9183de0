"""Where a model runs and in which dtype it computes: the policy, in one place, with its reasons.

bfloat16 where the hardware multiplies it fast, else float32:

* CUDA of compute capability 8.0 (Ampere) and later, and ROCm, have bfloat16 matrix units.
* Apple's GPUs: macOS 14 brought bfloat16 to Metal; before it torch refuses the dtype.
* x86 processors with AMX (measured on one: 1.1-2.1 TFLOP/s in bfloat16 against 0.17-0.25 in float32).
* AVX512-BF16 alone says little: 0.78 against 0.19 TFLOP/s on two cores of AMD's Zen 4, 0.17 against 0.32 on two of an
  Intel processor whose AMX the virtual machine hides. So one product of each is timed, once a process.
* Every other processor emulates bfloat16 through float32, which is slower than float32 itself.

float16 is never chosen: its range needs loss scaling, and gradients of small models vanish in it. GPUs that have
float16 alone compute in float32.
"""

from __future__ import annotations

import platform
import time
from functools import cache
from pathlib import Path

import torch

from hone.errors import ConfigError

__all__ = ["check_device", "check_dtype", "explain_dtype", "pick_device", "pick_dtype"]

_CPU_FLAGS_FILE = Path("/proc/cpuinfo")
_BFLOAT16_CAPABILITY = (8, 0)
_BFLOAT16_MACOS = 14
_TIMED_UNIT = "AVX512-BF16"
# A product of a small model's size: 2 to 4 ms on two cores.
_TIMED_ROWS, _TIMED_WIDTH, _REPETITIONS = 256, 1024, 8
_CLEARLY = 1.25
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device() -> str:
    """The best device of this machine: ``cuda`` (ROCm too), else ``mps``, else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def pick_dtype(device: str) -> torch.dtype:
    """bfloat16 where ``device`` computes it fast, else float32; see the module's docstring for the reasons."""
    return explain_dtype(device)[0]


def explain_dtype(device: str) -> tuple[torch.dtype, str]:
    """The dtype for ``device``, and a phrase for the user that says why."""
    kind = torch.device(device).type
    if kind == "cuda":
        return _explain_cuda(device)
    if kind == "mps":
        version = platform.mac_ver()[0]
        major = int(version.split(".")[0] or 0) if version else 0
        if major >= _BFLOAT16_MACOS:
            return torch.bfloat16, f"macOS {version} has bfloat16 on its GPU"
        return torch.float32, f"bfloat16 on Apple's GPU needs macOS {_BFLOAT16_MACOS}, this is {version or 'older'}"
    unit = _bfloat16_unit()
    if unit == _TIMED_UNIT and not _multiplies_bfloat16_faster():
        return torch.float32, f"the processor has {unit}, and yet multiplies float32 faster (timed)"
    if unit:
        return torch.bfloat16, f"the processor multiplies bfloat16 with {unit}"
    return (
        torch.float32,
        "the processor has neither AMX nor AVX512-BF16: bfloat16 would be emulated, slower than float32",
    )


def check_device(device: str | None) -> str:
    """The device that the user named, if this machine has it; the best one for None.

    Raises:
        ConfigError: the name is not a device, or the machine lacks it.
    """
    if device is None:
        return pick_device()
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"{device!r} is not a device", where="device", remedy="use cpu, cuda, cuda:1 (the second GPU) or mps"
        ) from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts.get(parsed.type, 0)
    if (parsed.index or 0) >= count:
        have = ", ".join(f"{kind} ({number})" for kind, number in counts.items() if number)
        raise ConfigError(
            f"{device!r} is not there: this machine has {have}",
            where="device",
            remedy="leave the option out to use the best device, or see `hone doctor`",
        )
    return str(parsed)


def check_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """The dtype that the user named; the one of :func:`pick_dtype` for None.

    Raises:
        ConfigError: it is neither float32 nor bfloat16, or the device cannot compute in it.
    """
    if dtype is None:
        return pick_dtype(device)
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        why = "its range needs loss scaling, and small gradients vanish in it" if name == "float16" else None
        raise ConfigError(
            f"{name!r} is not a dtype that hone computes in", where="dtype", why=why, remedy="use bfloat16 or float32"
        )
    if name == "bfloat16" and torch.device(device).type == "mps" and pick_dtype(device) is torch.float32:
        raise ConfigError(f"bfloat16 cannot be used: {explain_dtype(device)[1]}", where="dtype", remedy="use float32")
    return _DTYPES[name]


def _explain_cuda(device: str) -> tuple[torch.dtype, str]:
    name = torch.cuda.get_device_name(device)
    if torch.version.hip:
        return torch.bfloat16, f"{name} has bfloat16 matrix units"
    major, minor = torch.cuda.get_device_capability(device)
    capability = f"{name} has compute capability {major}.{minor}"
    if (major, minor) >= _BFLOAT16_CAPABILITY:
        return torch.bfloat16, f"{capability}, with bfloat16 matrix units"
    return torch.float32, f"{capability}; bfloat16 needs 8.0"


def _bfloat16_unit() -> str:
    """What multiplies bfloat16 in this processor; an empty string where nothing does."""
    flags = _processor_flags()
    # torch's own answers are private functions: asked where they exist, and the kernel's flags otherwise
    if _torch_answers("_is_amx_tile_supported", "amx_bf16" in flags):
        return "AMX"
    if _torch_answers("_is_avx512_bf16_supported", "avx512_bf16" in flags):
        return _TIMED_UNIT
    return ""


@cache
def _multiplies_bfloat16_faster() -> bool:
    """Whether a matrix product takes less time in bfloat16 than in float32: the least of some repetitions of each.

    One thread's own processor time counts: beside other work the wall clock was seen to choose the slower type.
    """
    seconds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for dtype in _DTYPES.values():
            left, right = (
                torch.ones(shape, dtype=dtype) for shape in ((_TIMED_ROWS, _TIMED_WIDTH), (_TIMED_WIDTH,) * 2)
            )
            found = []
            for _ in range(_REPETITIONS):
                started = time.thread_time()
                torch.mm(left, right)
                found.append(time.thread_time() - started)
            seconds[dtype] = min(found)
    torch.set_num_threads(threads)
    # where it is nearly even, other work on the machine must not decide, and float32 is the exact one
    return _CLEARLY * seconds[torch.bfloat16] < seconds[torch.float32]


def _torch_answers(name: str, otherwise: bool) -> bool:
    question = getattr(torch.cpu, name, None)
    return bool(question()) if callable(question) else otherwise


def _processor_flags() -> frozenset[str]:
    try:
        text = _CPU_FLAGS_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
