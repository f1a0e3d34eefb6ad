"""One request as its router knows it."""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.core.request.states import Ended, Queued, State

ATTEMPT_BITS: Final = 8
"""Low bits of an epoch that count the attempts of one request; the others tell requests apart that share an id."""

MAX_ATTEMPTS: Final = 1 << ATTEMPT_BITS


class Holding(NamedTuple):
    """A worker that may hold something for an attempt."""

    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed when the request was accepted.

    Attributes:
        deadline: When nobody wants the answer any more, in seconds of the router's clock.
        max_failures: Attempts that may fail before the request does: its retry budget.
        patience: Seconds that it waits for workers once it has lost its own.
        linger: Seconds that it goes on without its client.
    """

    deadline: float | None = None
    max_failures: int = 3
    patience: float = 60.0
    linger: float = 0.0


@dataclass(frozen=True, slots=True)
class Past:
    """What became of earlier attempts.

    Attributes:
        failures: How many failed since one last got somewhere (`attempt.PROVEN_TOKENS`).
        avoid: The workers that may be to blame for those.
        error: Why the last one failed.
        replays: How often the request was begun anew, after a failure or because a worker was drained.
        emitted: Tokens of the answer when the current attempt began.
    """

    failures: int = 0
    avoid: frozenset[str] = frozenset()
    error: TriptychError | None = None
    replays: int = 0
    emitted: int = 0


@dataclass(frozen=True, slots=True)
class Present:
    """The client listens."""


@dataclass(frozen=True, slots=True)
class Away:
    """The client's connection has ended; it may come back."""

    since: float


@dataclass(frozen=True, slots=True)
class Gone:
    """The client has its answer, or will not come back."""


Client = Present | Away | Gone


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        key: Its id, and the epoch of its current attempt.
        emitted: Tokens of the answer so far.
        holders: Who may hold something and has not been sent Free.
        freeing: Who has been sent Free and has not acknowledged it.
    """

    key: OperationKey
    terms: Terms
    state: State
    emitted: int = 0
    holders: frozenset[Holding] = frozenset()
    freeing: frozenset[Holding] = frozenset()
    client: Client = Present()
    past: Past = Past()

    @property
    def closed(self) -> bool:
        """Whether nobody, client or worker, has anything left to hear."""
        return (
            isinstance(self.state, Ended) and isinstance(self.client, Gone) and not self.holders and not self.freeing
        )


def accepted(key: OperationKey, terms: Terms, now: float, emitted: int = 0) -> Record:
    """A new request; `emitted` tokens of its answer are known already, from another router.

    Args:
        key: The epoch's low bits, which count attempts, must be 0.
        terms: What was agreed.
        now: Seconds of the router's clock.
        emitted: Tokens that the client has.
    """
    return Record(key, terms, Queued(now), emitted, past=Past(emitted=emitted))


def grown(record: Record, tokens: int) -> Record:
    """The answer has so many tokens more. Happens for every token: `replace` would take twice as long."""
    r = record
    return Record(r.key, r.terms, r.state, r.emitted + tokens, r.holders, r.freeing, r.client, r.past)


def wakeup(record: Record) -> float | None:
    """When `TimePassed` is due at the latest; None when time alone changes nothing."""
    moments = []
    if isinstance(record.client, Away):
        moments.append(record.client.since + record.terms.linger)
    if not isinstance(record.state, Ended):
        if record.terms.deadline is not None:
            moments.append(record.terms.deadline)
        if isinstance(record.state, Queued):
            moments.append(record.state.since + record.terms.patience)
    return min(moments, default=None)


def hold(record: Record, *worker_ids: str) -> Record:
    """These workers may hold something for the current attempt from now on."""
    return replace(record, holders=record.holders | {Holding(worker, record.key.epoch) for worker in worker_ids})
