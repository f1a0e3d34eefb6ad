"""Whether an expert is fetched or computed where it is: whichever is done first.

With few rows an expert costs the CPU less than the bus (Fiddler, arXiv:2402.07033).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Miss:
    """An expert that the accelerator does not have.

    Attributes:
        expert: Which.
        rows: Of the step, that go through it.
        nbytes: Of it.
    """

    expert: int
    rows: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured.

    Attributes:
        copy: Seconds per byte to the accelerator.
        compute: Seconds per byte of an expert and row on the CPU.
    """

    copy: float
    compute: float


def computed(misses: Sequence[Miss], queued: int, costs: Costs) -> frozenset[int]:
    """Experts that the CPU computes, so that the last of all is done earliest.

    Bus and CPU work at the same time, each one expert after the other. Those of the fewest rows are the CPU's; ties
    go to the bus.

    Args:
        misses: Each expert once.
        queued: Bytes that the bus has to copy before.
        costs: Of both ways.
    """
    order = sorted(misses, key=lambda miss: (miss.rows * miss.nbytes, miss.expert))
    on_bus = queued + sum(miss.nbytes for miss in order)
    on_cpu = 0.0
    best, count = on_bus * costs.copy, 0
    for number, miss in enumerate(order, 1):
        on_bus -= miss.nbytes
        on_cpu += miss.rows * miss.nbytes * costs.compute
        done = max(on_cpu, on_bus * costs.copy if number < len(order) else 0.0)
        if done < best:
            best, count = done, number
    return frozenset(miss.expert for miss in order[:count])
