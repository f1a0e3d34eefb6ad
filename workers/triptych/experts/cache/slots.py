"""The states of a slot of memory that holds one expert."""

from dataclasses import dataclass
from typing import Literal

Cause = Literal["demand", "prefetch", "warm"]
"""Why an expert is read: a step waits for it, one may soon, or one of the last run did."""


@dataclass(frozen=True, slots=True)
class Empty:
    """Holds nothing that means anything."""


@dataclass(frozen=True, slots=True)
class Loading:
    """An expert is being read into it."""

    layer: int
    expert: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Ready:
    """Holds an expert."""

    layer: int
    expert: int


Slot = Empty | Loading | Ready


@dataclass(frozen=True, slots=True)
class Load:
    """An expert to be read into a slot."""

    slot: int
    layer: int
    expert: int
    cause: Cause
