"""Memory of this process."""

import resource
import sys


def peak_bytes() -> int:
    """The most that was resident at any time, mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
