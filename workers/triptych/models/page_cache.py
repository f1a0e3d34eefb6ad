"""What the operating system keeps of files in memory."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def forget_pages(path: Path) -> None:
    """Writes a file's pages to the disk, and lets go of those that nobody has mapped; where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        _forget(descriptor, (range(0),))
    finally:
        os.close(descriptor)


def forget_runs(path: Path, runs: Sequence[range]) -> None:
    """Lets go of some of a file's pages, of those that are as on the disk and that nobody has mapped."""
    with suppress(OSError), path.open("rb") as file:
        _forget(file.fileno(), runs)


def _forget(descriptor: int, runs: Sequence[range]) -> None:
    """Of runs of bytes; one of no bytes goes on to the end of the file."""
    if hasattr(os, "posix_fadvise"):
        for run in runs:
            os.posix_fadvise(descriptor, run.start, len(run), os.POSIX_FADV_DONTNEED)
