"""A demand on its way: in which order a mixture may go through its experts, and when it may read each half."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from triptych.experts.blob import Expert
from triptych.experts.torch.copier import Event
from triptych.kernels import Experts

Halves = tuple[Event, Event]
"""After gate and up of an expert were copied, and after its down was."""


@dataclass(frozen=True, slots=True, eq=False)
class Here:
    """Experts that are computed where they are, in host memory.

    Attributes:
        experts: By local number; one is made, or merely seen, when it is asked for.
        computed: To be told when they have been: the seconds that it took to make them, and to compute with them.
    """

    experts: Mapping[int, Callable[[], Expert]]
    computed: Callable[[float, float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Of one layer's demand.

    Attributes:
        there: Experts in their slots.
        coming: Other experts that the device computes, in the order in which they come.
        sent: Puts the copy of one of these on its way, if it is not; None when it cannot be read.
        here: What the CPU computes.
    """

    there: Sequence[int]
    coming: Sequence[int]
    sent: Callable[[int], Halves | None]
    here: Here

    @property
    def experts(self) -> list[int]:
        """All of them, in the order of sums."""
        return sorted((*self.there, *self.coming, *self.here.experts))

    def arriving(self, half: int) -> Iterator[int]:
        """Those that come, each when the device may be given work that reads its half 0, or 1."""
        for expert in self.coming:
            halves = self.sent(expert)
            if halves is not None:
                halves[half].wait()
            yield expert


@dataclass(frozen=True, slots=True, eq=False)
class PlannedExperts(Experts):
    """Experts of a layer with what is known of its present demand.

    Attributes:
        plan: Gives it.
    """

    plan: Callable[[], Plan] = field(kw_only=True)
