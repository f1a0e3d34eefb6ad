"""Files read and written past the page cache, so that what is read once takes no memory from what is read often."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from triptych.experts.blob import PAGE

_REFUSED = (errno.EINVAL, errno.ENOTSUP)


def pages(nbytes: int) -> Tensor:
    """Zeroed memory [nbytes] uint8 that begins with a page; it goes with the last tensor on it."""
    return torch.frombuffer(mmap.mmap(-1, max(nbytes, PAGE)), dtype=torch.uint8)[:nbytes]


@dataclass(frozen=True, slots=True)
class DirectFile:
    """An open file whose offsets, sizes and memory are pages; through the page cache where O_DIRECT is refused.

    Attributes:
        descriptor: Of the file.
        direct: Whether the page cache is passed by.
    """

    descriptor: int
    direct: bool

    def read(self, into: Tensor, offset: int) -> int:
        """Fills into [n] uint8 from an offset; the bytes that there are, fewer where the file ends before."""
        memory, done = into.numpy().data, 0
        while done < len(memory):
            count = os.preadv(self.descriptor, [memory[done:]], offset + done)
            done += count
            if not count or count % PAGE:
                break
        self.forget(offset, len(memory))
        return done

    def write(self, data: Tensor, offset: int) -> None:
        """Writes all of data [n] uint8 at an offset."""
        memory, done = data.numpy().data, 0
        while done < len(memory):
            done += os.pwrite(self.descriptor, memory[done:], offset + done)
        if not self.direct:
            os.fsync(self.descriptor)
            self.forget(offset, len(memory))

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        os.fsync(self.descriptor)

    def forget(self, offset: int, nbytes: int) -> None:
        """Drops what the page cache has of it, where that is not passed by: the disk is read next."""
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)


@contextmanager
def open_direct(path: Path, flags: int) -> Iterator[DirectFile]:
    """Opens a file for reading or writing.

    Args:
        path: The file.
        flags: As for `os.open`.
    """
    file = opened(path, flags)
    try:
        yield file
    finally:
        os.close(file.descriptor)


def allocate(file: DirectFile, nbytes: int) -> None:
    """Has the file system set room aside, where it can: a full disk shows now, and what is written lies together."""
    with _unless_refused():
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.descriptor, 0, nbytes)


def opened(path: Path, flags: int) -> DirectFile:
    """As `open_direct`, for whoever closes the descriptor."""
    direct: int = getattr(os, "O_DIRECT", 0)
    with _unless_refused():
        if direct:
            return DirectFile(os.open(path, flags | direct, 0o644), True)
    return DirectFile(os.open(path, flags, 0o644), False)


@contextmanager
def _unless_refused() -> Iterator[None]:
    """Goes on where a file system says that it does not have this."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
