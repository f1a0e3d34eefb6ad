"""Contiguous parts of a dimension, one for each rank. Pure."""

from dataclasses import dataclass
from itertools import pairwise

_ALIGNED = 64
"""Where activations begin a new scale (int8), and a multiple of what wide registers and tensor cores take."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The whole numbers from `start` up to `stop`, without that."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """The same, as indexing wants it."""
        return slice(self.start, self.stop)

    def times(self, width: int) -> "Interval":
        """What it covers if each of them stands for `width` numbers."""
        return Interval(self.start * width, self.stop * width)

    def around(self, granule: int) -> "Interval":
        """The granules of so many numbers that it touches."""
        return Interval(self.start // granule, -(-self.stop // granule))


def intervals(total: int, parts: int, granule: int = 1) -> tuple[Interval, ...]:
    """Cuts [0, total) into parts whose borders are multiples of `granule`; the first have one granule more.

    Parts are empty where there are fewer granules than parts.
    """
    granules = -(-total // granule)
    share, more = divmod(granules, parts)
    borders = [min(part * share + min(part, more), granules) * granule for part in range(parts + 1)]
    return tuple(Interval(min(start, total), min(stop, total)) for start, stop in pairwise(borders))


def shares(total: int, parts: int, block: int = 1) -> tuple[Interval, ...]:
    """Cuts a width that is at least `parts` into parts that are not empty.

    Borders are multiples of 64 if that leaves nobody more than an eighth above the average, and of less if not. They
    fall into a block of quantised numbers only where there are fewer blocks than parts.

    Args:
        total: The width.
        parts: Ranks.
        block: Elements that are packed together, a power of two.
    """
    smallest = block if -(-total // block) >= parts else 1
    granule = max(_ALIGNED, smallest)
    while granule > smallest and not _fair(intervals(total, parts, granule), total):
        granule //= 2
    return intervals(total, parts, granule)


def _fair(found: tuple[Interval, ...], total: int) -> bool:
    return found[-1].size > 0 and 8 * len(found) * found[0].size <= 9 * total
