"""Silence around transformers' loading code, which talks about matters that hone checks and reports itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging

__all__ = ["quiet_transformers"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors only and no progress bars inside the block; afterwards everything is as it was."""
    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    hub_had_no_bars = are_progress_bars_disabled()
    logging.set_verbosity_error()
    _switch_bars(on=False)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            _switch_bars(on=True)
        if hub_had_no_bars:
            _switch_bars(on=False, hub_alone=True)


def _switch_bars(*, on: bool, hub_alone: bool = False) -> None:
    with warnings.catch_warnings():
        # where HF_HUB_DISABLE_PROGRESS_BARS is set, the hub's library warns that it has priority
        warnings.simplefilter("ignore")
        if hub_alone:
            disable_progress_bars()
        elif on:
            logging.enable_progress_bar()  # the hub's bars with it
        else:
            logging.disable_progress_bar()
