"""Where tensors come from: one file of weights, seen as Hugging Face names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from triptych.core.errors import Unimplemented
from triptych.models.mapping import Extent, map_file, view
from triptych.models.safetensors_header import read_header

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


class Source(Protocol):
    """One weight file."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor of the file, by its Hugging Face name."""

    def extent(self, name: str, dtype: torch.dtype) -> Extent | None:
        """Where the tensor lies ready for use in that dtype; None when it has to be converted.

        Tensors of integers and booleans are always used as they are.
        """

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the first dimension, in a floating dtype of at least the stored precision.

        Raises:
            Unimplemented: stored in a way that is not read.
        """


class SafetensorsSource:
    """A safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = read_header(path)
        self._mapped: torch.Tensor | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor of the file."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def extent(self, name: str, dtype: torch.dtype) -> Extent | None:
        """Where the tensor lies, if it is stored in `dtype` or holds integers."""
        own = self._own_extent(name)
        wanted = own.dtype == dtype or not own.dtype.is_floating_point
        return own if wanted and own.aligned else None

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) as they are stored."""
        if self._mapped is None:
            self._mapped = map_file(self.path)
        return view(self._mapped, self._own_extent(name).rows(start, stop))

    def _own_extent(self, name: str) -> Extent:
        stored = self._stored[name]
        if stored.dtype not in DTYPES:
            raise Unimplemented(
                f"{self.path}: tensor {name} is stored as {stored.dtype}, which is not read", field="model"
            )
        return Extent(self.path, stored.offset, stored.shape, DTYPES[stored.dtype])
