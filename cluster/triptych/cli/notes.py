"""What a user should know beside what was asked for."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def machine_notes() -> list[str]:
    """One sentence per thing that works without, but better with."""
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"):
        return []
    return ["there is no C++ compiler, so torch computes instead of compiled kernels; on Debian: apt-get install g++"]


@contextmanager
def client_notes() -> Iterator[None]:
    """Shows on standard error what the SDK has to say, such as that it looks for a lost connection."""
    handler, logger = _Notes(logging.WARNING), logging.getLogger("triptych.client")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        begin = "\n" if sys.stdout.isatty() else ""  # a terminal may be in the middle of an answer
        print(f"{begin}note: {record.getMessage()}", file=sys.stderr)
