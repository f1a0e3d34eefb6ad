"""How fast experts come from the disk: measured, past the page cache."""

import errno
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from torch import Tensor

from triptych.core.errors import ResourceExhausted, Unavailable
from triptych.core.sizes import MIB
from triptych.experts.blob import PAGE
from triptych.experts.store.direct import DirectFile, open_direct, pages

SCRATCH_BYTES: Final = 64 * MIB
SECONDS: Final = 0.5


@contextmanager
def scratch_file(folder: Path, size: int = SCRATCH_BYTES) -> Iterator[Path]:
    """A file of random bytes on a folder's disk, for as long as it is measured.

    Raises:
        Unavailable: the folder takes no files.
        ResourceExhausted: it has no room.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(
                tempfile.NamedTemporaryFile(dir=folder, prefix="bandwidth-", suffix=".partial")
            )
        except OSError as error:
            raise Unavailable(f"{folder} cannot be written: {error.strerror}") from error
        piece = random.randbytes(MIB)
        try:
            for _ in range(-(-size // MIB)):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise ResourceExhausted(f"{folder} has no room for {size} bytes: {error.strerror}") from error
        yield Path(file.name)


def disk_bandwidth(
    path: Path, size: int, readers: int, *, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Bytes per second of reads at random places of a file by several threads.

    Args:
        path: The file: the packed experts, or a scratch file on the same disk.
        size: Bytes of a read, those of an expert.
        readers: Threads.
        seconds: How long to measure; each thread reads at least once.
        clock: Seconds.

    Raises:
        Unavailable: it cannot be read.
    """
    size = max(PAGE, size // PAGE * PAGE)
    try:
        length = path.stat().st_size
        if length < size:
            raise Unavailable(f"{path} must have at least {size} bytes to be measured by")
        with open_direct(path, os.O_RDONLY) as file, ThreadPoolExecutor(readers) as threads:
            file.forget(0, length)
            begun = clock()

            def reader(seed: int) -> int:
                places, buffer, done = random.Random(seed), pages(size), 0
                while not done or clock() - begun < seconds:
                    done += _read(file, buffer, places.randint(0, (length - size) // PAGE) * PAGE)
                return done

            return sum(threads.map(reader, range(readers))) / (clock() - begun)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def _read(file: DirectFile, into: Tensor, offset: int) -> int:
    if (count := file.read(into, offset)) == len(into):
        return count
    raise OSError(errno.EIO, "it ends where it did not before")
