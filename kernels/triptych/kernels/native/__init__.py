"""C++ kernels for CPUs: a plain C ABI, compiled at first use and kept.

`install` registers what this machine can compile and run; where it can do neither, torch computes.
"""

import logging
from dataclasses import dataclass
from functools import cache

from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.isa import Isa, supported

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Installed:
    """What computes on this CPU.

    Attributes:
        isa: What the kernels are compiled for; None when torch computes.
        refused: What would have been better but is not available, each with its reason.
    """

    isa: Isa | None
    refused: tuple[tuple[Isa, str], ...] = ()


@cache
def install() -> Installed:
    """Makes the C++ kernels the backends of their ops, for the best instruction set that can be had here.

    The first call on a machine compiles them. A compiler that does not know an instruction set gives way to the next
    best one. If there is none, one warning is logged, with the reason.
    """
    refused: list[tuple[Isa, str]] = []
    for isa in supported():
        try:
            register(isa)
        except NotAvailable as error:
            refused.append((isa, str(error)))
        else:
            return Installed(isa, tuple(refused))
    logger.warning("torch computes instead of compiled kernels, slower: %s", refused[-1][1])
    return Installed(None, tuple(refused))


def register(isa: Isa) -> None:
    """Makes the kernels for one instruction set the backends of their ops: of all, or of none.

    Raises:
        NotAvailable: they cannot be compiled or loaded here.
    """
    from triptych.kernels.native import (
        activation,
        attention,
        embedding,
        experts,
        latent,
        linear,
        low_rank,
        norm,
        rope_store,
        routing,
        rows,
        sampling,
        scaling,
    )
    from triptych.kernels.native.building import build, missing, units
    from triptych.kernels.native.library import load

    needed = units((isa,))
    build(missing(needed))  # what is there already is checked once, when it is loaded
    for unit in needed:
        load(unit.source, unit.isa)
    modules = (
        activation,
        attention,
        embedding,
        experts,
        latent,
        linear,
        low_rank,
        norm,
        rope_store,
        routing,
        rows,
        sampling,
        scaling,
    )
    for kernels in modules:
        kernels.register(isa)
