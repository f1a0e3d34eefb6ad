"""Compiles every kernel ahead of time, and says what is compiled already."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from triptych.kernels.native.compile import NotAvailable, compiled, sources, target_of
from triptych.kernels.native.isa import ISAS, Isa, supported

PORTABLE = ("residency", "team")
"""They compute next to nothing: one compilation serves every instruction set."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One source for one instruction set."""

    source: str
    isa: Isa

    @property
    def target(self) -> Path:
        """Where its shared object is, or will be."""
        return target_of(self.source, self.isa)


def units(isas: Iterable[Isa]) -> tuple[Unit, ...]:
    """Everything that a machine needs which runs the kernels for these instruction sets."""
    wanted = tuple(isas)
    kernels = [source for source in sources() if source not in PORTABLE]
    return (
        *(Unit(source, ISAS[-1]) for source in PORTABLE),
        *(Unit(source, isa) for isa in wanted for source in kernels),
    )


def missing(all_units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Those that are not compiled yet.

    Raises:
        NotAvailable: there is no compiler, or the cache cannot be written.
    """
    return tuple(unit for unit in all_units if not unit.target.exists())


def obtainable() -> bool:
    """Whether all kernels are compiled for some instruction set of this CPU, or there is what compiles them.

    Compiles nothing; a compiler that fails is not found out.
    """
    for isa in supported():
        try:
            missing(units((isa,)))
        except NotAvailable:
            continue
        return True
    return False


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build(all_units: Iterable[Unit], done: Callable[[Unit], None] = lambda unit: None) -> None:
    """Compiles them, as many at a time as there are cores.

    Args:
        all_units: What to compile; those that are there already take no time.
        done: Hears of each, in order.

    Raises:
        NotAvailable: there is no compiler, or it fails, or the cache cannot be written.
    """
    with ThreadPoolExecutor(_cores()) as pool:
        results = [(unit, pool.submit(compiled, unit.source, unit.isa)) for unit in all_units]
        for unit, result in results:
            result.result()
            done(unit)
