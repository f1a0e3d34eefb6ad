"""What rank 0 and the others say to each other about loads and moves of experts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triptych.parallel.balance.placement import Placement

Counts = npt.NDArray[np.int64]
"""[layers, E], rows that were sent to each expert."""


@dataclass(frozen=True, slots=True)
class TakeLoads:
    """Rank 0 asks for what has been counted since it last asked."""


@dataclass(frozen=True, slots=True)
class StageLayer:
    """Rank 0 asks everybody to prepare a placement in the background.

    Attributes:
        move: Number of this move.
        layer: Place of the layer among those with experts.
        placement: Which rank is to have what.
    """

    move: int
    layer: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class CommitLayer:
    """Everybody has prepared it: from the next step on it holds."""

    move: int


@dataclass(frozen=True, slots=True)
class DropLayer:
    """Forget what was prepared."""

    move: int


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """The answer to `TakeLoads`."""

    counts: Counts


@dataclass(frozen=True, slots=True)
class LayerStaged:
    """The answer to `StageLayer`.

    Attributes:
        move: Which.
        experts: How many this rank had to read.
        read_bytes: Their size.
        seconds: That it took.
    """

    move: int
    experts: int
    read_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerFailed:
    """This rank cannot prepare a placement; it goes on with what it has."""

    move: int
    reason: str


Order = TakeLoads | StageLayer | CommitLayer | DropLayer
"""From rank 0, in the order of its steps."""
Report = Loads | LayerStaged | LayerFailed
"""To rank 0, whenever there is something to say."""
