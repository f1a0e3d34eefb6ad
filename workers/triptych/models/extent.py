"""A tensor as a run of bytes in a file: the common currency of readers, conversion and mapping."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous array within a file, little-endian, row-major.

    Attributes:
        path: The file.
        offset: First byte, from the start of the file.
        shape: Slowest dimension first.
        dtype: Element type as safetensors names it, such as BF16; a key of ITEM_BYTES.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def aligned(self) -> bool:
        """Whether the elements can be used where they lie."""
        return self.offset % ITEM_BYTES[self.dtype] == 0
