"""Which backend computes each op on this machine's CPU, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

import triptych.kernels
from triptych.kernels.dispatch import REFERENCE, Op
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


def inventory(failures: Mapping[str, str]) -> tuple[OpStatus, ...]:
    """Every op, in the order of their names.

    Args:
        failures: What `install` returned.
    """
    ops = (getattr(triptych.kernels, name) for name in triptych.kernels.__all__)
    return tuple(_status(op, failures) for op in ops if isinstance(op, Op))


def _status(op: "Op[...]", failures: Mapping[str, str]) -> OpStatus:
    if op.backend("cpu") != REFERENCE:
        return OpStatus(op.name, "native", _choice())
    if op.name in failures:
        return OpStatus(op.name, "torch", failures[op.name])
    return OpStatus(op.name, "torch", "has no C++ kernel: torch's own serves it")


def _choice() -> str:
    best = supported()[0]
    better = ISAS[: ISAS.index(best)]
    lacks = "".join(f"; no {isa.name}: the CPU lacks {', '.join(isa.missing)}" for isa in better)
    return f"compiled for {best.name}{lacks}"
