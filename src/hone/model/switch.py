"""What can be switched off inside a model, so that the base answers: the counterpart of an adapted layer's ``enabled``.

A method that does not wrap layers one by one puts one switch into the model as a child. It holds no parameter, so the
model's weights, names and files are what they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

__all__ = ["Switch"]


class Switch(nn.Module, ABC):
    """A part of a model with two states; a subclass says in :meth:`turn` what changes between them."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the tuned model answers; False for the base."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value != self._enabled:
            self.turn(value)
            self._enabled = value

    @abstractmethod
    def turn(self, enabled: bool) -> None:
        """Go to the other state.

        Args:
            enabled: the state to go to.
        """
