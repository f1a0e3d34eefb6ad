"""Which experts of a demand an accelerator leaves to the CPU."""

from collections.abc import Sequence
from typing import Protocol

from triptych.experts.torch.finish import Costs, Miss, computed

_WEIGHT = 0.2
"""Of the latest measurement in the running mean."""


class Cold(Protocol):
    """Decides."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        """Experts that the CPU computes, of those that are in host memory; `queued` bytes are copied before."""

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        """The CPU has computed with these, at least one: seconds that expanding them took, and those after that."""


class Copied:
    """All are copied: results are those of resident experts, bit for bit."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        """See `Cold.choose`."""
        return frozenset()

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
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

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        """See `Cold.computed`."""
        costs, expanded = self.costs, sum(miss.nbytes for miss in misses if miss.rounded)
        compute = _mean(costs.compute, computing / sum(miss.rows * miss.nbytes for miss in misses))
        expand = _mean(costs.expand, expanding / expanded) if expanded else costs.expand
        self.costs = Costs(costs.copy, compute, expand)


def _mean(before: float, measured: float) -> float:
    return (1 - _WEIGHT) * before + _WEIGHT * measured
