"""Tensors that are bytes of a file: mapped read-only, so that all processes of a host share one copy of the pages."""

import mmap
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous array within a file, little-endian, in torch's own layout.

    Attributes:
        path: The file.
        offset: First byte, from the start of the file.
        shape: Slowest dimension first.
        dtype: Element type.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def aligned(self) -> bool:
        """Whether the array can be used where it lies."""
        return self.offset % self.dtype.itemsize == 0

    def rows(self, start: int, stop: int) -> "Extent":
        """Rows [start, stop) of the first dimension."""
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        return Extent(self.path, self.offset + start * row, (stop - start, *self.shape[1:]), self.dtype)


def map_file(path: Path) -> torch.Tensor:
    """The whole file as a uint8 tensor over a shared, read-only mapping.

    Nothing is read until it is touched, and then into the page cache once per host. A read-only mapping also costs
    no commit charge, so a file may be larger than the memory. Writing to it ends the process.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        # torch warns that it cannot mark the tensor read-only; that nobody writes to weights is our contract.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(data, dtype=torch.uint8)


def view(mapped: torch.Tensor, extent: Extent) -> torch.Tensor:
    """The array of an extent, without reading it; copied only if it does not lie on a multiple of its item size."""
    raw = mapped[extent.offset : extent.offset + extent.nbytes]
    return (raw if extent.aligned else raw.clone()).view(extent.dtype).view(extent.shape)
