"""Extents as torch tensors: mapped read-only, so that all processes of a host share one copy of the pages."""

import mmap
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from triptych.models.extent import Extent

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class MappedFile:
    """A file over a shared, read-only mapping.

    Nothing is read until it is touched, and then into the page cache once per host. A read-only mapping costs no
    commit charge either, so a file may be larger than the memory. Writing to it ends the process.

    Attributes:
        mapping: The memory.
        content: uint8 over it.
    """

    mapping: mmap.mmap
    content: torch.Tensor

    def view(self, extent: Extent) -> torch.Tensor:
        """The array of an aligned extent, without reading it."""
        raw = self.content[extent.offset : extent.offset + extent.nbytes]
        return raw.view(DTYPES[extent.dtype]).view(extent.shape)

    def read_ahead(self, run: range) -> None:
        """Has the system begin to read a run of bytes from the disk, and does not wait for it.

        Args:
            run: Begins with a page, and may end behind the file.
        """
        self.mapping.madvise(mmap.MADV_WILLNEED, run.start, len(run))

    def fence(self, run: range) -> None:
        """Has touching a page beside a run of bytes map none of the run's own.

        The system maps what is in the page cache around a page that is touched, up to a change of what is advised
        (mm/memory.c, do_fault_around). A fault in the run reads nothing ahead from then on, `read_ahead` still does.
        Where the system has no room for one more change, all stays as it is.

        Args:
            run: Pages.
        """
        with suppress(OSError):
            self.mapping.madvise(mmap.MADV_RANDOM, run.start, len(run))

    @property
    def whole(self) -> bool:
        """Whether the file is still as long as it was: pages behind its end cannot be touched."""
        return self.mapping.size() >= len(self.mapping)

    def let_go(self, run: range) -> None:
        """Takes a run of bytes out of this process's memory, until they are touched again.

        Args:
            run: As in `read_ahead`.
        """
        self.mapping.madvise(mmap.MADV_DONTNEED, run.start, len(run))


def map_file(path: Path) -> MappedFile:
    """Maps a whole file."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        # torch warns that it cannot mark the tensor read-only; that nobody writes to weights is our contract.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return MappedFile(data, torch.frombuffer(data, dtype=torch.uint8))
