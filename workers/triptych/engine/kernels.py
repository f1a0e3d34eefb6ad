"""Compiles the C++ kernels before the first step needs them, in view of the user."""

import logging

from triptych.kernels.native.building import build, missing, units
from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.isa import supported
from triptych.models.progress import Progress

logger = logging.getLogger(__name__)


def build_kernels(progress: Progress) -> None:
    """Compiles what this machine lacks; where that fails torch computes, and `native.install` says why.

    Args:
        progress: Hears of it, if there is anything to compile.
    """
    try:
        absent = missing(units(supported()[:1]))
        if absent:
            with progress.task(f"Compiling {len(absent)} C++ kernels, once on this machine", None):
                build(absent)
    except NotAvailable as error:
        logger.debug("the kernels cannot be built: %s", error)
