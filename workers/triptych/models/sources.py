"""Where tensors come from: one file of weights, seen as Hugging Face names."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from triptych.core.errors import Unimplemented
from triptych.models.extent import Extent
from triptych.models.safetensors_header import read_header

FloatArray = npt.NDArray[np.floating[Any]]

_FLOATS: Mapping[str, str] = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_INTEGERS = frozenset({"BOOL", "U8", "I8", "I16", "I32", "I64"})


class Source(Protocol):
    """One weight file."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor of the file, by its Hugging Face name."""

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies ready for use as `dtype`; None when it has to be converted.

        Integers and booleans are always used as they are.

        Raises:
            Unimplemented: of an element type that is not read.
        """

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) of the first dimension, in at least the stored precision.

        Raises:
            Unimplemented: packed in a way that is not read.
        """


class SafetensorsSource:
    """A safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._extents = read_header(path)
        self.shapes = {name: extent.shape for name, extent in self._extents.items()}

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored as `dtype` or holds integers."""
        own = self._extents[name]
        whole = own.dtype in _INTEGERS and own.aligned
        if not whole and own.dtype not in _FLOATS:
            raise Unimplemented(f"{self.path}: tensor {name} is {own.dtype} at byte {own.offset}, which is not read")
        return own if whole or (own.dtype == dtype and own.aligned) else None

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop); bfloat16 comes widened to float32, which is exact."""
        extent = self._extents[name]
        count = extent.shape[0] if extent.shape else 1
        raw = self._bytes[extent.offset : extent.offset + extent.nbytes].reshape(count, -1)
        rows: FloatArray = raw[start:stop].view(_FLOATS[extent.dtype]).reshape(stop - start, *extent.shape[1:])
        return (rows.astype(np.uint32) << 16).view(np.float32) if extent.dtype == "BF16" else rows

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, mode="r")
