"""C++ kernels for CPUs: a plain C ABI, compiled at first use and kept.

`install` registers what this machine can compile and run; everything else stays with the torch reference.
"""

import logging
from collections.abc import Callable
from functools import cache
from types import MappingProxyType

from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.isa import Isa, supported

MAX_THREADS = 2
"""The kernels run on the calling thread, which more threads of torch than this outrun."""

logger = logging.getLogger(__name__)


@cache
def install() -> MappingProxyType[str, str]:
    """Registers the native backends for the best instruction set of this machine; the first call may compile.

    Returns:
        The ops that stay with torch although they have a kernel, and why. One warning is logged if there are any.
    """
    reasons: dict[str, str] = {}
    for ops, register in _registrars():
        try:
            register(supported()[0])
        except NotAvailable as error:
            reasons |= dict.fromkeys(ops, str(error))
    if reasons:
        logger.warning("torch computes %s: %s", ", ".join(reasons), next(iter(reasons.values())))
    return MappingProxyType(reasons)


def _registrars() -> tuple[tuple[tuple[str, ...], Callable[[Isa], None]], ...]:
    """Names of ops, and what registers their kernels for an instruction set."""
    from triptych.kernels.native import linear, norm

    return ((("linear",), linear.register), (("rms_norm", "add_rms_norm"), norm.register))
