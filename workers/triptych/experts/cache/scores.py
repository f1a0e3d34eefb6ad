"""Who is worth a slot: a number for every expert of a layer, of which the larger stays.

Doubles, added and multiplied only, so that the C++ side has the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

_LARGE, _SMALL = 1e100, 1e-100


class Scores(Protocol):
    """Of the experts of one layer."""

    values: list[float]
    """By expert, in the order of which they are worth keeping."""

    def touch(self, experts: Sequence[int]) -> None:
        """A step of the layer asks for these, each named once."""

    def of(self, expert: int) -> float:
        """The present score."""


@dataclass(slots=True)
class LastUse:
    """Least recently used goes first."""

    values: list[float]
    steps: float = 0.0

    def touch(self, experts: Sequence[int]) -> None:
        """See `Scores.touch`."""
        self.steps += 1.0
        for expert in experts:
            self.values[expert] = self.steps

    def of(self, expert: int) -> float:
        """See `Scores.of`."""
        return self.values[expert]


@dataclass(slots=True)
class DecayedUses:
    """Uses, each worth `decay` times as much with every step of the layer (Fate, arXiv:2502.12224).

    Later uses are worth more instead of earlier ones less: one multiplication a step.
    """

    values: list[float]
    decay: float = 0.95
    worth: float = 1.0

    def touch(self, experts: Sequence[int]) -> None:
        """See `Scores.touch`."""
        for expert in experts:
            self.values[expert] += self.worth
        self.worth /= self.decay
        if self.worth > _LARGE:
            self.worth *= _SMALL
            self.values = [value * _SMALL for value in self.values]

    def of(self, expert: int) -> float:
        """See `Scores.of`."""
        return self.values[expert]


@dataclass(slots=True)
class Fixed:
    """Whoever was in demand before: nothing that happens changes it."""

    values: list[float] = field(default_factory=list)

    def touch(self, experts: Sequence[int]) -> None:
        """See `Scores.touch`."""

    def of(self, expert: int) -> float:
        """See `Scores.of`."""
        return self.values[expert]
