"""GPTQ (arXiv:2210.17323) as AutoGPTQ and GPTQModel store it."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from triptych.models.packed.arrays import Arrays, Floats, unpack
from triptych.models.packed.groups import dequantize, group_of_inputs
from triptych.models.packed.scheme import Endings
from triptych.models.sources import Shape


@dataclass(frozen=True, slots=True)
class Gptq:
    """(number − zero) · scale, words along the inputs.

    .qweight [I · bits / 32, O], .qzeros [groups, O · bits / 32], .scales [groups, O], .g_idx [I]: the group of each
    input, where they were ordered by activation.

    Attributes:
        bits: Per number: 2, 4 or 8.
        zero_offset: What stored zeros lack: 1 in checkpoint_format gptq, 0 in gptq_v2. It is added to whole words, as
            GPTQModel takes it off.
    """

    bits: int
    zero_offset: int

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""
        return Endings(".qweight", (".scales",), (".qzeros", ".g_idx"))

    def shape(self, arrays: Arrays) -> Shape:
        """[O, I]."""
        words, outputs = arrays.shape(".qweight", None, None)
        inputs = words * 32 // self.bits
        groups, _ = arrays.shape(".scales", None, outputs)
        arrays.shape(".qzeros", groups, outputs * self.bits // 32)
        if ".g_idx" in arrays.extents:
            arrays.shape(".g_idx", inputs)
        arrays.require_words(".qweight", ".qzeros")
        return outputs, inputs

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Rows [start, stop)."""
        numbers = unpack(arrays.words(".qweight")[:, start:stop].T, self.bits)
        ones = sum(self.zero_offset << place for place in range(0, 32, self.bits))
        first, last = start * self.bits // 32, ceil(stop * self.bits / 32)
        words = arrays.words(".qzeros")[:, first:last] + np.uint32(ones)
        skipped = start - first * 32 // self.bits
        zeros = unpack(words, self.bits)[:, skipped : skipped + stop - start].T
        scales = arrays.floats(".scales")[:, start:stop].T
        return dequantize(
            numbers, zeros, scales, group_of_inputs(arrays, ".g_idx", numbers.shape[1], scales.shape[1])
        )
