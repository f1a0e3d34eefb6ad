"""Which backend computes each op on this machine's CPU, and why."""

from dataclasses import dataclass

import triptych.kernels
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.kernels.native import Installed
from triptych.kernels.native.isa import ISAS, supported


@dataclass(frozen=True, slots=True)
class OpStatus:
    """One op.

    Attributes:
        op: Its name.
        backend: "native" or "torch".
        reason: Why that one, for people.
    """

    op: str
    backend: str
    reason: str


def inventory(installed: Installed) -> tuple[OpStatus, ...]:
    """Every op, in the order of their names.

    Args:
        installed: What `install` returned.
    """
    ops = (getattr(triptych.kernels, name) for name in triptych.kernels.__all__)
    return tuple(_status(op, installed) for op in ops if isinstance(op, Op))


def _status(op: "Op[...]", installed: Installed) -> OpStatus:
    reason = "; ".join(_refusals(installed))
    if installed.isa is None:
        return OpStatus(op.name, "torch", reason)
    if op.backend("cpu") == REFERENCE:
        return OpStatus(op.name, "torch", "has no C++ kernel: torch's own serves it")
    return OpStatus(op.name, "native", "; ".join(filter(None, (f"compiled for {installed.isa.name}", reason))))


def _refusals(installed: Installed) -> list[str]:
    """Why not something better."""
    lacking = ISAS[: ISAS.index(supported()[0])]
    return [
        *(f"no {isa.name}: the CPU lacks {', '.join(isa.missing)}" for isa in lacking),
        *(f"no {isa.name}: {reason}" for isa, reason in installed.refused),
    ]
