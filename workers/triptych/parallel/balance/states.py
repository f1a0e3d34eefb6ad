"""What rank 0 is at with the experts of its replica."""

from dataclasses import dataclass
from typing import TypeAlias

from triptych.parallel.balance.messages import StageLayer


@dataclass(frozen=True, slots=True)
class Resting:
    """Nothing is under way."""


@dataclass(frozen=True, slots=True)
class Counting:
    """Ranks have been asked for their loads; `missing` have not answered."""

    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class Choosing:
    """Layers are to be looked at, one before each step.

    Attributes:
        layers: Which.
        worth: What balancedness a move must gain.
    """

    layers: tuple[int, ...]
    worth: float


@dataclass(frozen=True, slots=True)
class Staging:
    """Ranks prepare a layer.

    Attributes:
        order: What they were told.
        missing: Those that have not answered.
        since: When they were told, in seconds.
        then: What comes after it.
        slowest: Seconds of the slowest that have answered.
        failure: Why one of them cannot; empty unless so.
    """

    order: StageLayer
    missing: frozenset[int]
    since: float
    then: Choosing
    slowest: float = 0.0
    failure: str = ""


State: TypeAlias = Resting | Counting | Choosing | Staging
