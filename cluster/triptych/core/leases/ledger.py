"""All reservations of one KV pool: who may write which blocks, until when. Pure: no clock, no thread, no socket."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from triptych.core.errors import AlreadyExists, FailedPrecondition, Internal, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.leases.reservation import (
    Closed,
    Closing,
    Complete,
    Lost,
    Open,
    Outcome,
    Receiving,
    Reservation,
    State,
    after,
    check_fit,
    expiry,
    renewed,
)


@dataclass(frozen=True, slots=True)
class Write:
    """The chunk is admitted: write these blocks, then call `end`."""

    block_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The chunk is here already: acknowledge it again."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A chunk of this ticket is being written: wait for its end."""


Admission = Write | Duplicate | Busy


@dataclass(frozen=True, slots=True)
class Audit:
    """Who holds what at one moment.

    Attributes:
        held: Every reservation that exists, oldest first; each names its router, its operation and its blocks.
        overdue: Those among them whose lease is over.
    """

    held: tuple[State, ...]
    overdue: tuple[State, ...]

    @property
    def blocks(self) -> dict[OperationKey, tuple[int, ...]]:
        """Blocks by operation."""
        return {state.reservation.key: state.reservation.block_ids for state in self.held}


REMEMBERED = 1024
"""Completed tickets that are still known after their end: a sender that lost the last Ack asks once more, soon."""


class Ledger:
    """All reservations of one pool. Not thread-safe: its user holds a lock."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._arrived: OrderedDict[str, Reservation] = OrderedDict()

    def state(self, ticket_id: str) -> State | None:
        """The state; None when the ticket is unknown or gone."""
        return self._states.get(ticket_id)

    @property
    def writable_blocks(self) -> Iterator[int]:
        """Blocks that a sender may still write."""
        for state in self._states.values():
            if not isinstance(state, Complete):
                yield from state.reservation.block_ids

    def open(self, reservation: Reservation, expires_at: float) -> None:
        """Adds a reservation.

        Raises:
            AlreadyExists: The ticket id is taken.
            FailedPrecondition: One of the blocks is reserved by another ticket.
        """
        if reservation.ticket_id in self._states:
            raise AlreadyExists(f"ticket {reservation.ticket_id} is open already", field="ticket_id")
        if shared := set(reservation.block_ids).intersection(self.writable_blocks):
            raise FailedPrecondition(f"block {min(shared)} is reserved by another ticket", field="block_ids")
        self._states[reservation.ticket_id] = Open(reservation, expires_at)

    def renew(self, router_id: str, expires_at: float) -> int:
        """Extends every lease of a router; how many there were."""
        mine = [state for state in self._states.values() if state.reservation.router_id == router_id]
        for state in mine:
            self._states[state.reservation.ticket_id] = renewed(state, expires_at)
        return len(mine)

    def begin(self, ticket_id: str, first: int, count: int, last: bool, now: float) -> Admission:
        """A chunk of `count` blocks wants to be written from position `first` on.

        Raises:
            Unavailable: The ticket is unknown, closed or expired, or the chunk is out of order; another ticket helps.
            InvalidArgument: The chunk does not fit the reservation.
        """
        match self._states.get(ticket_id):
            case None if ticket_id in self._arrived:
                check_fit(self._arrived[ticket_id], first, count, last)
                return Duplicate()
            case None | Closing():
                raise Unavailable(f"ticket {ticket_id} is unknown or closed", field="ticket_id")
            case Receiving():
                return Busy()
            case Complete(reservation):
                check_fit(reservation, first, count, last)
                return Duplicate()
            case Open(reservation, expires_at, received) as state:
                if expires_at <= now:
                    raise Unavailable(f"the lease of ticket {ticket_id} has expired", field="ticket_id")
                check_fit(reservation, first, count, last)
                if first + count <= received:
                    return Duplicate()
                if first != received:
                    raise Unavailable(
                        f"ticket {ticket_id} expects block {received} next, got block {first}", field="first"
                    )
                self._states[ticket_id] = Receiving(state, first + count)
                return Write(reservation.block_ids[first : first + count])

    def end(self, ticket_id: str, outcome: Outcome, seconds: float) -> Open | Complete | Lost | Closed:
        """The write that `begin` admitted has ended; what became of the reservation."""
        state = self._states.pop(ticket_id)
        match state:
            case Closing():
                return Closed()
            case Receiving():
                following = after(state, outcome, seconds)
                if not isinstance(following, Lost):
                    self._states[ticket_id] = following
                return following
            case Open() | Complete():
                raise Internal(f"ticket {ticket_id} is not being written")

    def close(self, ticket_id: str) -> None:
        """Ends a reservation; idempotent. A write under way keeps it in Closing until `end`."""
        match self._states.get(ticket_id):
            case Receiving(before):
                self._states[ticket_id] = Closing(before.reservation)
            case Complete(reservation):
                del self._states[ticket_id]
                self._remember(reservation)
            case Open():
                del self._states[ticket_id]
            case None | Closing():
                pass

    def expire(self, now: float) -> tuple[str, ...]:
        """Closes every reservation whose lease is over; their ticket ids."""
        expired = tuple(ticket for ticket, state in self._states.items() if expiry(state) <= now)
        for ticket_id in expired:
            self.close(ticket_id)
        return expired

    def audit(self, now: float) -> Audit:
        """What is held, and what of it outlives its lease."""
        held = tuple(self._states.values())
        return Audit(held, tuple(state for state in held if expiry(state) <= now))

    def _remember(self, reservation: Reservation) -> None:
        self._arrived[reservation.ticket_id] = reservation
        if len(self._arrived) > REMEMBERED:
            self._arrived.popitem(last=False)
