"""When a request whose connection is lost is asked again: decided without a clock, chance or a connection."""

from dataclasses import dataclass
from typing import Final, assert_never

from triptych.core.errors import ResourceExhausted, TriptychError, Unavailable

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection ended under the request; the server may know it, or have been restarted."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class Unreached:
    """No connection came about."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class Answered:
    """The request failed, and the error says why."""

    error: TriptychError


Failure = Broken | Unreached | Answered


@dataclass(frozen=True, slots=True)
class New:
    """Nothing is known of the server: an error at first contact is the caller's to judge."""


@dataclass(frozen=True, slots=True)
class Known:
    """The server has begun to answer."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, and nothing has arrived since.

    Attributes:
        since: When it broke, in seconds.
        failures: How often the request has failed since then, that one included.
    """

    since: float
    failures: int


State = New | Known | Lost


@dataclass(frozen=True, slots=True)
class Again:
    """The request is asked again after `wait` seconds."""

    state: Lost
    wait: float


def after(state: State, failure: Failure, patience: float, now: float, chance: float) -> Again | TriptychError:
    """What follows a failed call: another one, or the error for the caller.

    Args:
        state: Of the request before it failed.
        failure: How it failed.
        patience: Seconds after the loss of the connection in which it may be found again; 0 never asks again.
        now: Seconds of any clock that does not go back.
        chance: In [0, 1): spreads the waiting clients of one server.
    """
    lost = _following(state, now)
    left = lost.since + patience - now
    if left <= 0 or not _heals(state, failure):
        return failure.error
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (lost.failures - 1)) * (0.5 + chance / 2)
    return Again(lost, min(left, max(backoff, failure.error.retry_after or 0.0)))


def _following(state: State, now: float) -> Lost:
    match state:
        case New() | Known():
            return Lost(now, 1)
        case Lost(since, failures):
            return Lost(since, min(failures + 1, 64))
        case unknown:
            assert_never(unknown)


def _heals(state: State, failure: Failure) -> bool:
    match failure:
        case Broken():
            return True
        case Unreached():
            return not isinstance(state, New)
        case Answered(error):
            refused = isinstance(error, (Unavailable, ResourceExhausted)) and error.retry_after is not None
            return refused and not isinstance(state, New)
        case unknown:
            assert_never(unknown)
