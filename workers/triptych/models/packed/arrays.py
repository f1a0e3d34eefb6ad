"""The arrays that a packed tensor consists of, read as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss
from triptych.models.extent import Extent
from triptych.models.sources import Shape, read_rows

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Arrays:
    """The arrays of one packed tensor, by the endings of their names.

    Attributes:
        what: The file and the first of them, for messages.
        extents: Where they lie.
    """

    what: str
    extents: Mapping[str, Extent]

    def shape(self, ending: str, *dimensions: int | None) -> Shape:
        """The shape of an array, which must be this one; None: any length.

        Raises:
            DataLoss: the array is missing or has another shape.
        """
        if ending not in self.extents:
            raise DataLoss(f"{self.what} has no {ending} beside it")
        shape = self.extents[ending].shape
        fits = all(wanted in (None, found) for wanted, found in zip(dimensions, shape, strict=False))
        if len(shape) != len(dimensions) or not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in dimensions)
            raise DataLoss(f"{self.what}: its {ending} must have shape [{wanted}], found {list(shape)}")
        return shape

    def raw(self, ending: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start, stop) as they are stored."""
        return read_rows(self.extents[ending], start, stop)

    def require_words(self, *endings: str) -> None:
        """Raises DataLoss unless these are arrays of 32-bit words."""
        for ending in endings:
            if (found := self.extents[ending].dtype) not in ("I32", "U32"):
                raise DataLoss(f"{self.what}: its {ending} must be I32, found {found}")

    def words(self, ending: str) -> npt.NDArray[np.uint32]:
        """An array of 32-bit words as the bits that it holds."""
        return self.raw(ending).view(np.uint32)

    def floats(self, ending: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) in float32, which holds every type below it exactly."""
        rows = self.raw(ending, start, stop)
        match self.extents[ending].dtype:
            case "BF16":
                values: Floats = (rows.astype(np.uint32) << 16).view(np.float32)
            case "F8_E4M3":
                values = _E4M3[rows]
            case "F8_E8M0" | "U8":
                values = exponents(rows)
            case _:
                values = rows.astype(np.float32)
        return values


def unpack(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """The numbers of so many bits in 32-bit words, lowest first: [..., n] to [..., n · 32 / bits]."""
    packed = np.ascontiguousarray(words).view(np.uint8)[..., None]
    numbers = (packed >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*words.shape[:-1], -1)


def exponents(raw: npt.NDArray[np.uint8]) -> Floats:
    """E8M0: powers of two, 2^(byte − 127); 255 is NaN (OCP Microscaling Formats 1.0, section 5.4.1)."""
    powers = np.ldexp(np.float32(1), raw.astype(np.int32) - 127)
    return np.where(raw == 255, np.float32("nan"), powers)


def _e4m3() -> Floats:
    """The value of every byte: bias 7, no infinities, ±NaN where all bits are set (arXiv:2209.05433)."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8.0 + mantissa, exponent - 10))
    value[byte & 127 == 127] = np.nan
    signed: Floats = np.where(byte < 128, value, -value).astype(np.float32)
    return signed


_E4M3 = _e4m3()
