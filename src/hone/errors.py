"""The error tree of hone: one class per kind of trouble, each with its exit code.

    HoneError                    1  something failed
    ├── BadInputError            2  the user can mend it: a file, an option, a name
    │   ├── DataError            2  rows, formats, splits
    │   ├── ConfigError          2  options and config files
    │   ├── ModelError           2  a model that is not found, damaged, or not supported
    │   ├── TemplateError        2  a chat template that cannot render a conversation
    │   └── VersionError         2  a version, alias or run that is not there
    ├── MissingDependencyError   1  an optional package is not installed
    ├── StorageError             1  no space, no permission, a damaged file
    ├── TrainingError            1  a run that had to stop (non-finite loss, out of memory)
    │   └── ProofError           1  an invariant does not hold
    ├── PromotionError           1  a version that does not pass the gate of an alias
    └── InterruptedRunError    130  Ctrl-C or SIGTERM; the message says how to go on

A user never sees a traceback for these: the command line prints :meth:`HoneError.render`.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BadInputError",
    "ConfigError",
    "DataError",
    "HoneError",
    "InterruptedRunError",
    "MissingDependencyError",
    "ModelError",
    "PromotionError",
    "ProofError",
    "StorageError",
    "TemplateError",
    "TrainingError",
    "VersionError",
]


class HoneError(Exception):
    """Something failed; says what, where, why it matters and what to do.

    Args:
        what: what was wrong, with the offending value.
        where: the place, as ``file:line`` or an option's name.
        why: why it matters; left out where it is obvious.
        remedy: the next step, as a command or an instruction.
        details: further problems of the same kind, reported together.
    """

    exit_code: int = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        remedy: str | None = None,
        details: Iterable[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy
        self.details = tuple(details)

    def render(self) -> str:
        """The message as printed to a user: one fact a line, at most 20 details."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        lines += [f"  - {detail}" for detail in self.details[:20]]
        if len(self.details) > 20:
            lines.append(f"  - ... and {len(self.details) - 20} more")
        if self.why:
            lines.append(f"Why it matters: {self.why}")
        if self.remedy:
            lines.append(f"What to do: {self.remedy}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


class BadInputError(HoneError):
    """What the user gave cannot be used."""

    exit_code = 2


class DataError(BadInputError):
    """Rows, their format, or how they were to be split."""


class ConfigError(BadInputError):
    """An option or a config file."""


class ModelError(BadInputError):
    """A model that is not found, damaged, or of an unsupported kind."""


class TemplateError(BadInputError):
    """A chat template that cannot render a conversation with right masks."""


class VersionError(BadInputError):
    """A version, alias or run that does not exist."""


class MissingDependencyError(HoneError):
    """An optional package is needed; the remedy is the line that installs it."""


class StorageError(HoneError):
    """No space, no permission, or a file that is not what was written."""


class TrainingError(HoneError):
    """A run had to stop; nothing non-finite was registered."""


class ProofError(TrainingError):
    """An invariant of the proof does not hold on this model and data."""


class PromotionError(HoneError):
    """A version does not pass the gate of an alias; each figure that failed is named."""


class InterruptedRunError(HoneError):
    """The user stopped a run; the remedy says how to go on."""

    exit_code = 130
