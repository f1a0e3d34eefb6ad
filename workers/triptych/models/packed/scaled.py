"""Numbers of eight bits with scales: compressed-tensors' int8 and fp8, and the fp8 of DeepSeek."""

from dataclasses import dataclass

import numpy as np

from triptych.core.errors import DataLoss
from triptych.models.packed.arrays import Arrays, Floats
from triptych.models.packed.scheme import Endings
from triptych.models.sources import Shape

_UNREAD = (
    ".input_scale",
    ".activation_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
    ".q_scale",
    ".k_scale",
    ".v_scale",
)


@dataclass(frozen=True, slots=True)
class Scaled:
    """(number − zero) · scale, a scale for the whole matrix, for each row, for groups of a row, or for blocks.

    .weight [O, I] of type I8 or F8_E4M3; .weight_scale, or .weight_scale_inv (DeepSeek's name for the same), of shape
    [], [1], [1, 1], [O, 1], [O, groups] or [⌈O / height⌉, ⌈I / width⌉]; .weight_zero_point of the same shape.

    Attributes:
        block: Height and width of the blocks of a matrix that has a scale for each.
    """

    block: tuple[int, int]

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""
        scales = (".weight_scale_inv", ".weight_scale")
        return Endings(".weight", scales, (".weight_zero_point",), unread=_UNREAD)

    def shape(self, arrays: Arrays) -> Shape:
        """[O, I]."""
        dtype = arrays.extents[".weight"].dtype
        if dtype not in ("I8", "F8_E4M3"):
            raise DataLoss(f"{arrays.what} has scales and must be I8 or F8_E4M3, found {dtype}")
        outputs, inputs = arrays.shape(".weight", None, None)
        grid = _grid(arrays, self._scales(arrays))
        height, width = self._tile(grid, outputs, inputs)
        if grid != (-(-outputs // height), -(-inputs // width)):
            raise DataLoss(
                f"{arrays.what} of shape {[outputs, inputs]} must have a scale for all, for each row, for groups of "
                f"a row, or for blocks of {list(self.block)}, found scales {list(grid)}"
            )
        return outputs, inputs

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Rows [start, stop)."""
        outputs, inputs = arrays.extents[".weight"].shape
        grid = _grid(arrays, self._scales(arrays))
        height, width = self._tile(grid, outputs, inputs)
        tiles = np.ix_(np.arange(start, stop) // height, np.arange(inputs) // width)
        values = arrays.floats(".weight", start, stop)
        if ".weight_zero_point" in arrays.extents:
            values -= arrays.floats(".weight_zero_point").reshape(grid)[tiles]
        values *= arrays.floats(self._scales(arrays)).reshape(grid)[tiles]
        return values

    def _scales(self, arrays: Arrays) -> str:
        return next(ending for ending in self.endings.scales if ending in arrays.extents)

    def _tile(self, grid: tuple[int, int], outputs: int, inputs: int) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        rows, columns = grid
        if grid == (1, 1):
            return max(1, outputs), max(1, inputs)
        if rows == outputs:
            return 1, max(1, inputs // max(1, columns))
        return self.block


def _grid(arrays: Arrays, ending: str) -> tuple[int, int]:
    """The shape of the scales, as a matrix."""
    shape = arrays.extents[ending].shape
    rows, columns = {0: (1, 1), 1: (*shape, 1)}.get(len(shape), shape)[:2]
    return rows, columns
