"""Which experts of a demand an accelerator leaves to the CPU."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from triptych.experts.torch.finish import Costs, Miss, computed

_WEIGHT = 0.2
"""Of the latest measurement in the running mean."""


class Cold(Protocol):
    """Decides."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        """Experts that the CPU computes, of those that are in host memory; `queued` bytes are copied before."""

    def computed(self, work: int, seconds: float) -> None:
        """The CPU has computed: bytes of experts times their rows, and the time that it took."""


class Copied:
    """All are copied: results are those of resident experts, bit for bit."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        """See `Cold.choose`."""
        return frozenset()

    def computed(self, work: int, seconds: float) -> None:
        """See `Cold.computed`."""


class Soonest:
    """Whichever way is done first, by measured costs; the CPU's are measured whenever it computes.

    Args:
        costs: To begin with.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        """See `Cold.choose`."""
        return computed(misses, queued, self.costs)

    def computed(self, work: int, seconds: float) -> None:
        """See `Cold.computed`."""
        compute = (1 - _WEIGHT) * self.costs.compute + _WEIGHT * seconds / work
        self.costs = replace(self.costs, compute=compute)
