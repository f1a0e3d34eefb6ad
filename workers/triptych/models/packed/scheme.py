"""What a way of packing weights says about itself."""

from dataclasses import dataclass
from typing import Protocol

from triptych.models.packed.arrays import Arrays, Floats
from triptych.models.sources import Shape


@dataclass(frozen=True, slots=True)
class Endings:
    """How the names of a packed tensor's arrays end.

    Attributes:
        packed: The array of packed numbers.
        scales: That of their scales, by one of these names. A tensor without is plain.
        others: Arrays that may be beside them.
        plain: What the tensor that they stand for would be called.
        unread: Arrays that say how to quantise activations or the cache of keys and values, which are not quantised
            here.
    """

    packed: str
    scales: tuple[str, ...]
    others: tuple[str, ...] = ()
    plain: str = ".weight"
    unread: tuple[str, ...] = ()


class Scheme(Protocol):
    """A way of packing weights. Its repr tells it from those that unpack to other values."""

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""

    def shape(self, arrays: Arrays) -> Shape:
        """The shape of the plain tensor.

        Raises:
            DataLoss: the arrays contradict each other.
        """

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Rows [start, stop) of the plain tensor."""
