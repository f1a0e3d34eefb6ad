"""What keeps experts in memory lets itself be told, besides what a mixture asks of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from triptych.experts.residency import Residency


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a layer asked for.

    Attributes:
        layer: Which.
        ids: [T, K] int32 on the CPU, local numbers; −1 is nobody.
    """

    layer: int
    ids: Tensor


class Steerable(Residency, Protocol):
    """An implementation of `Residency`: C++ or torch."""

    @property
    def recordable(self) -> bool:
        """Whether `ensure` and `prefetch` can be recorded."""

    def warm(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Before the first step: layers and local experts to be read into slots that layers keep, in this order."""

    def speculate(self, on: bool) -> None:
        """Whether `prefetch` reads anything."""

    def uses(self, layer: int) -> Sequence[int]:
        """Steps that asked for each local expert, since the beginning or the layer's last `rebind`."""

    def trace(self, on: bool) -> None:
        """Whether it is kept what layers ask for."""

    def drain(self) -> list[Asked]:
        """What was asked for since the last call, in order."""
