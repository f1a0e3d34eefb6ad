"""MXFP4 (OCP Microscaling Formats 1.0) as gpt-oss stores it."""

from dataclasses import dataclass

import numpy as np

from triptych.models.packed.arrays import Arrays, Floats
from triptych.models.packed.scheme import Endings
from triptych.models.sources import Shape


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Stacks of experts.

    _blocks [E, O, groups, 16]: two numbers a byte, the lower half first; _scales [E, O, groups]: an exponent for 32
    numbers. The plain tensor is stored transposed, as [E, I, O].
    """

    @property
    def endings(self) -> Endings:
        """Which arrays it consists of."""
        return Endings("_blocks", ("_scales",), plain="")

    def shape(self, arrays: Arrays) -> Shape:
        """[E, I, O]."""
        experts, outputs, groups, _ = arrays.shape("_blocks", None, None, None, 16)
        arrays.shape("_scales", experts, outputs, groups)
        return experts, groups * 32, outputs

    def read(self, arrays: Arrays, start: int, stop: int) -> Floats:
        """Experts [start, stop)."""
        packed = arrays.raw("_blocks", start, stop)
        values: Floats = _E2M1[packed]
        values *= arrays.floats("_scales", start, stop)[..., None, None]
        return values.reshape(*packed.shape[:2], -1).swapaxes(1, 2)


def _e2m1() -> Floats:
    """The two values of every byte, [256, 2]: a sign, two bits of exponent with bias 1, one of mantissa."""
    half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values: Floats = np.concatenate((half, -half))
    byte = np.arange(256)
    return np.stack((values[byte & 15], values[byte >> 4]), axis=1)


_E2M1 = _e2m1()
