"""Silence around transformers' loading code, which talks about matters that hone checks and reports itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub.utils
import transformers.utils.logging

__all__ = ["quiet_transformers"]

# Neither library declares the types of these functions.
_logging: Any = transformers.utils.logging
_hub: Any = huggingface_hub.utils


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors only and no progress bars inside the block; afterwards everything is as it was."""
    verbosity = _logging.get_verbosity()
    had_bars = _logging.is_progress_bar_enabled()
    hub_had_no_bars = _hub.are_progress_bars_disabled()
    _logging.set_verbosity_error()
    _switch_bars(on=False)
    try:
        yield
    finally:
        _logging.set_verbosity(verbosity)
        if had_bars:
            _switch_bars(on=True)
        if hub_had_no_bars:
            _switch_bars(on=False, hub_alone=True)


def _switch_bars(*, on: bool, hub_alone: bool = False) -> None:
    with warnings.catch_warnings():
        # where HF_HUB_DISABLE_PROGRESS_BARS is set, the hub's library warns that it has priority
        warnings.simplefilter("ignore")
        if hub_alone:
            _hub.disable_progress_bars()
        elif on:
            _logging.enable_progress_bar()  # the hub's bars with it
        else:
            _logging.disable_progress_bar()
