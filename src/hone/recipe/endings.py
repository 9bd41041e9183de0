"""How a run ends that was not finished: refused, stopped or out of space; and what its message says to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hone.errors import BadInputError, InterruptedRunError, StorageError
from hone.registry.runs import RunFolder

__all__ = ["interrupted", "removed_if_refused", "resumable"]


@contextmanager
def removed_if_refused(folder: RunFolder, *, is_new: bool) -> Iterator[None]:
    """Bad input that is found before anything could be resumed leaves no folder of a run that never was.

    Args:
        folder: of the run.
        is_new: whether this execution made it.
    """
    try:
        yield
    except BadInputError:
        if is_new and not folder.config.exists():
            folder.remove()
        raise


def resumable(folder: RunFolder, error: StorageError) -> StorageError:
    """The same error, with the command that goes on once there is space again."""
    remedy = f"{error.remedy}; then {_how_to_go_on(folder)}" if error.remedy else _how_to_go_on(folder)
    return StorageError(error.what, where=error.where, why=error.why, remedy=remedy, details=error.details)


def interrupted(folder: RunFolder, error: BaseException) -> InterruptedRunError:
    """What a stopped run says: how to go on, or that it had not begun to train."""
    what = error.what if isinstance(error, InterruptedRunError) else str(error) or "Ctrl-C"
    if not folder.config.exists():
        return InterruptedRunError(f"{what} before the training began", remedy="begin anew with the same command")
    return InterruptedRunError(what, remedy=_how_to_go_on(folder))


def _how_to_go_on(folder: RunFolder) -> str:
    return f"go on with `{'hone run' if folder.kind == 'run' else 'hone train'} --resume {folder.path}`"
