"""AWQ (arXiv:2306.00978) as AutoAWQ stores it in version gemm."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from triptych.models.packed.arrays import Arrays, Floats, unpack
from triptych.models.packed.groups import dequantize, group_of_inputs
from triptych.models.packed.scheme import Endings
from triptych.models.sources import Shape

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word eight neighbours lie: it holds them in the order 0 2 4 6 1 3 5 7."""


@dataclass(frozen=True, slots=True)
class Awq:
    """(number − zero) · scale, words along the outputs.

    .qweight [I, O / 8], .qzeros [groups, O / 8], .scales [groups, O].
    """

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""
        return Endings(".qweight", (".scales",), (".qzeros",))

    def shape(self, arrays: Arrays) -> Shape:
        """[O, I]."""
        inputs, words = arrays.shape(".qweight", None, None)
        groups, outputs = arrays.shape(".scales", None, words * 8)
        arrays.shape(".qzeros", groups, words)
        arrays.require_words(".qweight", ".qzeros")
        return outputs, inputs

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Rows [start, stop)."""
        numbers, zeros = (self._columns(arrays.words(name), start, stop) for name in (".qweight", ".qzeros"))
        scales = arrays.floats(".scales")[:, start:stop].T
        return dequantize(
            numbers, zeros, scales, group_of_inputs(arrays, ".g_idx", numbers.shape[1], scales.shape[1])
        )

    def _columns(self, words: npt.NDArray[np.uint32], start: int, stop: int) -> npt.NDArray[np.uint8]:
        first = start // 8
        nibbles = unpack(words[:, first : ceil(stop / 8)], 4).reshape(len(words), -1, 8)
        return nibbles[..., _PLACES].reshape(len(words), -1)[:, start - first * 8 : stop - first * 8].T
