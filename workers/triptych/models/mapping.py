"""Extents as torch tensors: mapped read-only, so that all processes of a host share one copy of the pages."""

import mmap
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from triptych.models.extent import Extent

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def map_file(path: Path) -> torch.Tensor:
    """The whole file as a uint8 tensor over a shared, read-only mapping.

    Nothing is read until it is touched, and then into the page cache once per host. A read-only mapping costs no
    commit charge either, so a file may be larger than the memory. Writing to it ends the process.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        # torch warns that it cannot mark the tensor read-only; that nobody writes to weights is our contract.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(data, dtype=torch.uint8)


def view(mapped: torch.Tensor, extent: Extent) -> torch.Tensor:
    """The array of an aligned extent, without reading it."""
    raw = mapped[extent.offset : extent.offset + extent.nbytes]
    return raw.view(DTYPES[extent.dtype]).view(extent.shape)
