"""The C allocator's settings for training on the CPU."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# <malloc.h> of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1
# Blocks up to this size are kept; older versions of glibc take no more than 32 MiB.
_LARGEST_BLOCKS = (1 << 30, 1 << 25)


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors give back, for the tensors of the next step.

    glibc gives large blocks back to the system at once and takes them again, page by page and zeroed, a few
    milliseconds later; a training step does so hundreds of times. The peak is the same.

    Returns:
        Whether it took effect; other C libraries than glibc have no such settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        set_option = library.mallopt
    except (OSError, AttributeError):
        return False
    is_kept = any(set_option(_M_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS)
    return bool(set_option(_M_TRIM_THRESHOLD, _LARGEST_INT)) and is_kept


def give_back_freed_memory() -> bool:
    """Give the system the memory that is kept, so that what the next piece of work takes is seen in the resident set.

    Returns:
        Whether some was given back; other C libraries than glibc have no such call.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
