"""Which tiles Idefics3 and SmolVLM cut a picture into."""

import math
from dataclasses import dataclass
from typing import Final

_MAX_EDGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Splitting:
    """How large a picture is made, and how it is cut.

    Attributes:
        longest_edge: Pixels that its longer edge is scaled to first.
        tile: Pixels along each side of a tile.
        split: Whether it is cut at all; if not, one tile shows the whole.
    """

    longest_edge: int
    tile: int
    split: bool

    def tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles beside the one that shows the whole; (0, 0): there is no other."""
        if not self.split:
            return 0, 0
        width, height = _below(*_scaled(width, height, self.longest_edge), _MAX_EDGE)
        ratio = width / height
        if width >= height:
            width = self._whole(width)
            height = self._whole(int(width / ratio))
        else:
            height = self._whole(height)
            width = self._whole(int(height * ratio))
        rows, columns = height // self.tile, width // self.tile
        return (0, 0) if rows == columns == 1 else (rows, columns)

    def _whole(self, edge: int) -> int:
        return math.ceil(edge / self.tile) * self.tile


def _scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """The longer edge becomes `longest`; the shorter one follows and is made even."""
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(other + other % 2, 1)
    other = int(longest * ratio)
    return max(other + other % 2, 1), longest


def _below(width: int, height: int, limit: int) -> tuple[int, int]:
    ratio = width / height
    if width >= height and width > limit:
        width, height = limit, int(limit / ratio)
    elif height > width and height > limit:
        width, height = int(limit * ratio), limit
    return max(width, 1), max(height, 1)
