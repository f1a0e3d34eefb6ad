"""The way of an expert into its slot."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from torch import Tensor

from triptych.experts.cache import Load
from triptych.experts.torch.reads import Arrived
from triptych.kernels import Experts


class Lane(Protocol):
    """Fills slots in the background. A slot has one expert under way at a time."""

    memory: Tensor
    """[N, B] uint8, the slots, on the device that computes."""
    stall_ns: int
    """Time that somebody has waited for experts."""

    def experts(self, layer: int, tables: Experts) -> Experts:
        """What `moe` is given of a layer."""

    def begin(self, load: Load, number: int, *, rounded: bool) -> bool:
        """An expert is to come into a slot; `number` is its own in the packed file, whence it may come rounded.

        Whether it is read for that: it may have been, or be on its way, for something else.
        """

    def promote(self, slot: int) -> None:
        """A step waits for this one now."""

    def drop(self, slot: int) -> bool:
        """Gives up one that has not been begun; whether that is so."""

    def demand(self, layer: int, ids: Tensor, slots: Mapping[int, int], kept: Collection[int]) -> tuple[int, ...]:
        """`moe` is next.

        Args:
            layer: Of which.
            ids: [T, K], on the CPU.
            slots: Where the experts of these are, or come to, by local number, in ascending order.
            kept: Experts that stay beyond this step, so that it is worth having them.

        Returns:
            Slots that are not filled after all: their experts are computed elsewhere.
        """

    def arrived(self) -> list[Arrived]:
        """Slots of which the way is over since the last call: what is computed from now on finds their experts."""

    def wait(self, slots: Iterable[int]) -> None:
        """Returns when none of these has an expert under way."""

    def close(self) -> None:
        """Ends its threads."""
