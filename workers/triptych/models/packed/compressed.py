"""The pack-quantized format of compressed-tensors (github.com/vllm-project/compressed-tensors)."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from triptych.core.errors import DataLoss
from triptych.models.packed.arrays import Arrays, Floats, unpack
from triptych.models.packed.groups import Integers, dequantize, group_of_inputs
from triptych.models.packed.scheme import Endings
from triptych.models.sources import Shape


@dataclass(frozen=True, slots=True)
class PackedIntegers:
    """(number − 2^(bits − 1) − zero) · scale, words along the inputs.

    .weight_packed [O, ⌈I · bits / 32⌉], .weight_scale [O, groups], .weight_shape: O and I; .weight_zero_point int8
    [O, groups], or packed along the outputs; .weight_g_idx [I]: the group of each input. Numbers have 4 or 8 bits.
    """

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""
        others = (".weight_shape", ".weight_zero_point", ".weight_g_idx")
        return Endings(".weight_packed", (".weight_scale",), others)

    def shape(self, arrays: Arrays) -> Shape:
        """[O, I]."""
        arrays.shape(".weight_shape", 2)
        outputs, inputs = (int(length) for length in arrays.raw(".weight_shape"))
        _, words = arrays.shape(".weight_packed", outputs, None)
        if words not in (ceil(inputs / 8), ceil(inputs / 4)):
            raise DataLoss(
                f"{arrays.what} has {words} words a row, which {inputs} numbers of 4 or 8 bits do not fill"
            )
        _, groups = arrays.shape(".weight_scale", outputs, None)
        if ".weight_zero_point" in arrays.extents:
            packed = arrays.extents[".weight_zero_point"].dtype == "I32"
            rows = ceil(outputs * _bits(arrays, inputs) / 32) if packed else outputs
            arrays.shape(".weight_zero_point", rows, groups)
        if ".weight_g_idx" in arrays.extents:
            arrays.shape(".weight_g_idx", inputs)
        arrays.require_words(".weight_packed")
        return outputs, inputs

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Rows [start, stop)."""
        _, inputs = (int(length) for length in arrays.raw(".weight_shape"))
        bits = _bits(arrays, inputs)
        numbers = unpack(arrays.words(".weight_packed")[start:stop], bits)[:, :inputs]
        scales = arrays.floats(".weight_scale", start, stop)
        groups = group_of_inputs(arrays, ".weight_g_idx", inputs, scales.shape[1])
        return dequantize(numbers, _zeros(arrays, bits, start, stop), scales, groups)


def _bits(arrays: Arrays, inputs: int) -> int:
    return 4 if arrays.extents[".weight_packed"].shape[1] == ceil(inputs / 8) else 8


def _zeros(arrays: Arrays, bits: int, start: int, stop: int) -> Integers:
    """[n, groups], or one for all."""
    middle = 1 << (bits - 1)
    if ".weight_zero_point" not in arrays.extents:
        return np.full((1, 1), middle)
    if arrays.extents[".weight_zero_point"].dtype == "I32":
        return unpack(arrays.words(".weight_zero_point").T, bits)[:, start:stop].T
    return arrays.raw(".weight_zero_point", start, stop).astype(np.int32) + middle
