"""Memory and a descriptor as the compiled pool takes them."""

import contextlib
import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from triptych.core.errors import Unavailable
from triptych.experts.blob import PAGE
from triptych.experts.store.direct import opened


def slots(count: int, nbytes: int) -> Tensor:
    """Memory [N, B] uint8 at a page's beginning, in large pages where the system has them; taken as it is touched."""
    memory = mmap.mmap(-1, max(count * nbytes, PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)[: count * nbytes].view(count, nbytes)


def open_file(path: Path) -> int:
    """A descriptor to read a file past the page cache, or through it where the file system has no other way.

    Raises:
        Unavailable: it cannot be opened.
    """
    try:
        return opened(path, os.O_RDONLY).descriptor
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror}") from error
