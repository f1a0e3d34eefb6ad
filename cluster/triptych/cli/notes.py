"""What a user should know of this machine before a cluster starts on it."""

import os
import shutil


def machine_notes() -> list[str]:
    """One sentence per thing that works without, but better with."""
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"):
        return []
    return ["there is no C++ compiler, so torch computes instead of compiled kernels; on Debian: apt-get install g++"]
