"""C++ kernels for CPUs: a plain C ABI, compiled at first use and kept.

`install` registers what this machine can compile and run; everything else stays with the torch reference.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.isa import Isa, supported

MAX_THREADS = 2
"""More threads of torch than this outrun kernels that run on the calling thread."""

logger = logging.getLogger(__name__)


@cache
def install() -> Mapping[str, str]:
    """Registers the native backends for the best instruction set of this machine; the first call may compile.

    Returns:
        The ops that stay with torch although they have a kernel, and why. One warning is logged if there are any.
    """
    from triptych.kernels.native.building import build, units

    reasons: dict[str, str] = {}
    isa = supported()[0]
    try:
        build(units((isa,)))
    except NotAvailable:
        logger.debug("not every kernel could be built ahead", exc_info=True)  # each is tried again, and says why
    for ops, register in _registrars():
        try:
            register(isa)
        except NotAvailable as error:
            reasons |= dict.fromkeys(ops, str(error))
    if reasons:
        logger.warning("torch computes %s: %s", ", ".join(reasons), next(iter(reasons.values())))
    return MappingProxyType(reasons)


def _registrars() -> tuple[tuple[tuple[str, ...], Callable[[Isa], None]], ...]:
    """Names of ops, and what registers their kernels for an instruction set."""
    from triptych.kernels.native import activation, attention, embedding, linear, norm, rope_store, sampling

    return (
        (("silu_mul",), activation.register),
        (("embedding",), embedding.register),
        (("linear", "linears", "gated_linear", "linear_argmax"), linear.register),
        (("paged_attention",), attention.register),
        (("rms_norm", "add_rms_norm", "add_rms_norm_rows"), norm.register),
        (("rope_store",), rope_store.register),
        (("draw_token",), sampling.register),
    )
