"""Says what this machine lacks, before anything is installed. Needs nothing but Python."""

from __future__ import annotations  # so that an older Python gets as far as being told so

import importlib.util
import os
import shutil
import sys
from pathlib import Path

MEMORY_GIB = 6
DISK_GIB = 6


def missing() -> list[str]:
    """One sentence per thing that is missing, with how to get it."""
    found = []
    if sys.version_info < (3, 11):
        found.append(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; "
            "install one and run: make PYTHON=/path/to/python3.11 install"
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append("Python's venv module is missing; on Debian: apt-get install python3-venv")
    memory = _memory_gib()
    if memory is not None and memory < MEMORY_GIB:
        found.append(f"the demo and the tests need {MEMORY_GIB} GiB of memory, this machine has {memory:.1f}")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < DISK_GIB:
        found.append(f"the installation and the models need {DISK_GIB} GiB of disk, {free:.1f} are free here")
    return found


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def notes() -> list[str]:
    """What would be better with, but works without."""
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"):
        return []
    return ["there is no C++ compiler, so torch computes instead of compiled kernels; on Debian: apt-get install g++"]


if __name__ == "__main__":
    problems = missing()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    for note in notes():
        print(f"note: {note}", file=sys.stderr)
    sys.exit(bool(problems))
