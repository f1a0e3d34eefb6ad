"""What the budget `auto` comes to."""

from dataclasses import dataclass
from typing import Final

KEPT_FREE: Final = 0.1
"""Share of the free memory that stays free: of the system, and of what nobody has counted."""


@dataclass(frozen=True, slots=True)
class Need:
    """What some processes that serve a model take on one machine, in bytes.

    Attributes:
        fixed: Whatever happens to experts: weights that are none, which all processes map once, and what each process
            has for itself (KV cache, code).
        experts: All experts, which all processes map once where they are in memory.
        pool: What slots for all experts of one process take.
        least: The smallest pool that a process can work with.
        processes: That need a pool where not all experts are in memory.
    """

    fixed: int
    experts: int
    pool: int
    least: int
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Everything:
    """All experts fit: none is ever read again."""


@dataclass(frozen=True, slots=True)
class Part:
    """A pool of `nbytes` for each process."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class TooLittle:
    """Not even the smallest pools fit: `missing` bytes of memory are needed besides."""

    missing: int


Verdict = Everything | Part | TooLittle


def choose_budget(need: Need, free: int) -> Verdict:
    """As much as there is, a tenth of what is free aside.

    Args:
        need: Of all processes together.
        free: Bytes.
    """
    room = int(free * (1 - KEPT_FREE)) - need.fixed
    if room >= need.experts:
        return Everything()
    each = room // need.processes
    if each < need.least:
        return TooLittle(need.processes * need.least - room)
    return Part(min(each, need.pool))
