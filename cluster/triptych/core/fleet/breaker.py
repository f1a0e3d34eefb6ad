"""A circuit breaker per worker: one that keeps failing gets no requests for a while, then one to prove itself.

Closed ──THRESHOLD failures in a row──▶ Open ──after its time, with the next request──▶ Probing
   ▲                                     ▲                                                │ │
   │                                     ╰──────────────── failure: twice the time ───────╯ │
   ╰──────────────────────────────────────── success ───────────────────────────────────────╯
"""

from dataclasses import dataclass
from typing import Final, assert_never

THRESHOLD: Final = 3
"""Failures in a row that open the circuit."""

FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 60.0
PROBE_SECONDS: Final = 5.0
"""A probe that has not ended by then (its client may have gone) makes room for the next."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The worker is trusted; so many of its latest operations failed."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """The worker gets nothing before `until`; it has failed so often without a success in between."""

    until: float
    trips: int


@dataclass(frozen=True, slots=True)
class Probing:
    """One request tries the worker out."""

    since: float
    trips: int


Breaker = Closed | Open | Probing
TRUSTED: Final = Closed()


def admits(breaker: Breaker, now: float) -> bool:
    """Whether a request may be sent to the worker."""
    match breaker:
        case Closed():
            return True
        case Open(until):
            return now >= until
        case Probing(since):
            return now >= since + PROBE_SECONDS
        case _:
            assert_never(breaker)


def dispatched(breaker: Breaker, now: float) -> Breaker:
    """A request is sent to the worker, which `admits` allowed."""
    match breaker:
        case Closed():
            return breaker
        case Open(_, trips) | Probing(_, trips):
            return Probing(now, trips)
        case _:
            assert_never(breaker)


def failed(breaker: Breaker, now: float) -> Breaker:
    """The worker could not do what it was asked."""
    match breaker:
        case Closed(failures) if failures + 1 < THRESHOLD:
            return Closed(failures + 1)
        case Closed():
            return _opened(now, 1)
        case Probing(_, trips):
            return _opened(now, trips + 1)
        case Open():
            return breaker
        case _:
            assert_never(breaker)


def succeeded(breaker: Breaker) -> Breaker:
    """The worker has done what it was asked."""
    return breaker if breaker == TRUSTED else TRUSTED


def _opened(now: float, trips: int) -> Open:
    return Open(now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (trips - 1)), trips)
