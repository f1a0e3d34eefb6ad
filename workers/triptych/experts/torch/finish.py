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
        copied: Bytes that the bus would copy of it, in the form that host memory has.
        nbytes: Of it, exact: what the CPU would compute with.
        rounded: Whether it is rounded in host memory, so that the CPU would expand it first.
    """

    expert: int
    rows: int
    copied: int
    nbytes: int
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured.

    Attributes:
        copy: Seconds per byte to the accelerator.
        compute: Seconds per byte of an exact expert and row on the CPU.
        expand: Seconds in which the CPU makes a byte of an exact expert from a rounded one.
    """

    copy: float
    compute: float
    expand: float

    def on_cpu(self, miss: Miss) -> float:
        """Seconds that the CPU would take for it."""
        return miss.nbytes * (miss.rows * self.compute + miss.rounded * self.expand)


def computed(misses: Sequence[Miss], queued: int, costs: Costs) -> frozenset[int]:
    """Experts that the CPU computes, so that the last of all is done earliest.

    Bus and CPU work at the same time, each one expert after the other. The CPU's are those that take it least time
    for each byte that the bus is spared: where all are in the same form, those of the fewest rows. Where they are
    not, some other division may be done sooner, by less than one expert takes. Ties go to the bus.

    Args:
        misses: Each expert once.
        queued: Bytes that the bus has to copy before.
        costs: Of both ways.
    """
    order = sorted(misses, key=lambda miss: (costs.on_cpu(miss) / miss.copied, miss.expert))
    on_bus = queued + sum(miss.copied for miss in order)
    on_cpu = 0.0
    best, count = on_bus * costs.copy, 0
    for number, miss in enumerate(order, 1):
        on_bus -= miss.copied
        on_cpu += costs.on_cpu(miss)
        done = max(on_cpu, on_bus * costs.copy if number < len(order) else 0.0)
        if done < best:
            best, count = done, number
    return frozenset(miss.expert for miss in order[:count])
