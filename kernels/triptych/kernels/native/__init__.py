"""C++ kernels for CPUs: a plain C ABI, compiled at first use and kept.

`install` registers what this machine can compile and run; everything else stays with the torch reference.
"""

import logging
from functools import cache

from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.linear import native_linear

MAX_THREADS = 2
"""The kernels run on the calling thread, which more threads of torch than this outrun."""

logger = logging.getLogger(__name__)


@cache
def install() -> tuple[str, ...]:
    """Registers the native backends; returns the names of the ops that got one. The first call may compile."""
    from triptych.kernels.linear import linear

    try:
        linear.register("native", "cpu", native_linear(linear.implementation("reference")))
    except NotAvailable as error:
        logger.warning("C++ kernels are off, torch computes instead: %s", error)
        return ()
    return ("linear",)
