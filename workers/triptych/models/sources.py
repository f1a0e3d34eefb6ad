"""Where tensors come from: a checkpoint, seen as named tensors."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from triptych.core.errors import Unimplemented
from triptych.models.extent import Extent
from triptych.models.safetensors_header import read_header
from triptych.models.stored import StoredBlocks

FloatArray = npt.NDArray[np.floating[Any]]
Shape = tuple[int, ...]

_FLOATS: Mapping[str, str] = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_INTEGERS: Mapping[str, str] = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_OTHERS: Mapping[str, str] = {
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
_ARRAYS = {**_FLOATS, **_INTEGERS, **_OTHERS}


class Rows(Protocol):
    """Named tensors whose rows can be read."""

    @property
    def path(self) -> Path:
        """The file, or the folder of several."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor, by name. Going over the names opens no file."""

    def describe(self, name: str) -> str:
        """The file that holds a tensor and what that calls it, for messages."""

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) of the first dimension, in at least the stored precision.

        Raises:
            Unimplemented: packed in a way that is not read.
        """


class Source(Rows, Protocol):
    """A checkpoint, parts of which may be used where they lie."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it consists of, opened or not."""

    @property
    def interleaved(self) -> bool:
        """Whether rows of q and k are in the order that llama.cpp's rotary embedding wants."""

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies ready for use as `dtype`; None when it has to be converted.

        Integers and booleans are always used as they are.

        Raises:
            Unimplemented: of an element type that is not read.
        """

    def blocks(self, name: str) -> StoredBlocks | None:
        """Where a matrix lies whose blocks kernels read as they are; None for every other tensor."""

    def origin(self, name: str) -> str:
        """What the values of a tensor are made of: the same text, the same values from the same files."""


class Plain(Source, Protocol):
    """A checkpoint of plain arrays, of which a packed tensor may have several."""

    def stored(self, name: str) -> Extent:
        """Where an array lies, whatever its type."""


class Shapes(Mapping[str, Shape]):
    """Shapes that are found out when they are asked for.

    Args:
        names: All of them.
        find: The shape of one.
    """

    def __init__(self, names: Collection[str], find: Callable[[str], Shape]) -> None:
        self._names, self._find = names, find

    def __getitem__(self, name: str) -> Shape:
        """The shape of a tensor; KeyError if there is none of this name."""
        if name not in self._names:
            raise KeyError(name)
        return self._find(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor; does not find out its shape."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


class SafetensorsSource:
    """A safetensors file."""

    interleaved = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)
        self._extents = read_header(path)
        self.shapes: Mapping[str, Shape] = {name: extent.shape for name, extent in self._extents.items()}

    def describe(self, name: str) -> str:
        """The file and the tensor."""
        return f"{self.path}: tensor {name}"

    def stored(self, name: str) -> Extent:
        """Where the tensor lies, whatever its type."""
        return self._extents[name]

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored as `dtype` or holds integers."""
        own = self._extents[name]
        whole = own.dtype in _INTEGERS and own.aligned
        if not whole and own.dtype not in _FLOATS:
            raise Unimplemented(f"{self.describe(name)} is {own.dtype} at byte {own.offset}, which is not read")
        return own if whole or (own.dtype == dtype and own.aligned) else None

    def blocks(self, name: str) -> None:
        """The format has none."""

    def origin(self, name: str) -> str:
        """Its name."""
        return name

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop); bfloat16 comes widened to float32, which is exact."""
        extent = self._extents[name]
        rows = read_rows(extent, start, stop)
        return (rows.astype(np.uint32) << 16).view(np.float32) if extent.dtype == "BF16" else rows


def read_rows(extent: Extent, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
    """Rows [start, stop) of a stored array, mapped: read when they are touched.

    A scalar is one row. bfloat16 and the eight-bit floats come as unsigned integers of their bits.
    """
    count, *rest = extent.shape or (1,)
    wanted = ((count if stop is None else stop) - start, *rest)
    kind = np.dtype(_ARRAYS[extent.dtype])
    if 0 in wanted:
        return np.empty(wanted, kind)
    offset = extent.offset + start * (extent.nbytes // count)
    return np.asarray(np.memmap(extent.path, kind, "r", offset, wanted))
