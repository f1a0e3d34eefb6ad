"""Reservations of a pool whose blocks may arrive in parts, each from another sender. Pure.

A reservation is whole until a chunk brings some parts only. From then on each part is reserved, written and closed
like a pool of its own: the reservation is complete when all of its parts are, and gone when all of them are.
"""

from triptych.core.errors import AlreadyExists, FailedPrecondition, Unavailable
from triptych.core.leases.ledger import Admission, Audit, Busy, Duplicate, Ledger, Write
from triptych.core.leases.reservation import Closed, Complete, Lost, Open, Outcome, Receiving, Reservation, State


class DividedLedger:
    """All reservations of one pool. Not thread-safe: its user holds a lock.

    Args:
        parts: Into how many the blocks can be divided; chunks bring ranges of them.
    """

    def __init__(self, parts: int) -> None:
        self._whole = Ledger()
        self._parts = tuple(Ledger() for _ in range(parts))

    def state(self, ticket_id: str) -> State | None:
        """The state of a part that lags behind, of the slowest one where all are complete; None when all are gone."""
        if whole := self._whole.state(ticket_id):
            return whole
        states = [state for ledger in self._parts if (state := ledger.state(ticket_id))]
        complete = [state for state in states if isinstance(state, Complete)]
        if len(complete) == len(states):
            return max(complete, key=lambda state: state.seconds, default=None)
        return next(state for state in states if not isinstance(state, Complete))

    def open(self, reservation: Reservation, expires_at: float) -> None:
        """Adds a reservation; errors as `Ledger.open`."""
        for ledger in self._parts:
            if ledger.state(reservation.ticket_id):
                raise AlreadyExists(f"ticket {reservation.ticket_id} is open already", field="ticket_id")
            if shared := set(reservation.block_ids).intersection(ledger.writable_blocks):
                raise FailedPrecondition(f"block {min(shared)} is reserved by another ticket", field="block_ids")
        self._whole.open(reservation, expires_at)

    def renew(self, router_id: str, expires_at: float) -> int:
        """Extends every lease of a router; how many there were."""
        divided = max(ledger.renew(router_id, expires_at) for ledger in self._parts)
        return self._whole.renew(router_id, expires_at) + divided

    def begin(self, ticket_id: str, parts: range, first: int, count: int, last: bool, now: float) -> Admission:
        """As `Ledger.begin`, for some parts of a chunk's blocks: all of them are admitted, or none.

        Raises:
            Unavailable, InvalidArgument: as `Ledger.begin`; also where the parts have not come equally far.
        """
        if len(parts) == len(self._parts) and not self._is_divided(ticket_id):
            return self._whole.begin(ticket_id, first, count, last, now)
        match self._whole.state(ticket_id):
            case None:
                pass
            case Open(reservation, expires_at, received=0):
                self._whole.close(ticket_id)
                for ledger in self._parts:
                    ledger.open(reservation, expires_at)
            case _:
                raise Unavailable(f"ticket {ticket_id} has whole blocks already", field="first")
        return self._begin_parts(ticket_id, parts, first, count, last, now)

    def end(
        self, ticket_id: str, parts: range, outcome: Outcome, seconds: float
    ) -> Open | Receiving | Complete | Lost | Closed:
        """The write that `begin` admitted has ended; what became of the reservation, as `state` sees it."""
        if not self._is_divided(ticket_id):
            return self._whole.end(ticket_id, outcome, seconds)
        ended = [self._parts[part].end(ticket_id, outcome, seconds) for part in parts]
        if over := next((state for state in ended if isinstance(state, Lost | Closed)), None):
            self.close(ticket_id)
            return over
        state = self.state(ticket_id)
        assert isinstance(state, Open | Receiving | Complete)
        return state

    def close(self, ticket_id: str) -> None:
        """Ends a reservation; idempotent. A part that is being written stays in Closing until `end`."""
        for ledger in (self._whole, *self._parts):
            ledger.close(ticket_id)

    def expire(self, now: float) -> tuple[str, ...]:
        """Closes every reservation whose lease is over; their ticket ids."""
        ledgers = (self._whole, *self._parts)
        return tuple(dict.fromkeys(ticket_id for ledger in ledgers for ticket_id in ledger.expire(now)))

    def audit(self, now: float) -> Audit:
        """What is held, and what of it outlives its lease; a reservation whose parts differ as `state` sees it."""
        audits = [ledger.audit(now) for ledger in (self._whole, *self._parts)]
        held = dict.fromkeys(state.reservation.ticket_id for audit in audits for state in audit.held)
        overdue = {state.reservation.ticket_id for audit in audits for state in audit.overdue}
        states = tuple(state for ticket_id in held if (state := self.state(ticket_id)))
        return Audit(states, tuple(state for state in states if state.reservation.ticket_id in overdue))

    def _is_divided(self, ticket_id: str) -> bool:
        return not self._whole.state(ticket_id) and any(ledger.state(ticket_id) for ledger in self._parts)

    def _begin_parts(self, ticket_id: str, parts: range, first: int, count: int, last: bool, now: float) -> Admission:
        admissions: list[Admission] = []
        try:
            for part in parts:
                admissions.append(self._parts[part].begin(ticket_id, first, count, last, now))
            kinds = {type(admission) for admission in admissions}
            if kinds == {Write, Duplicate}:
                raise Unavailable(f"ticket {ticket_id} has part of block {first} already", field="first")
        except Exception:
            self._undo(ticket_id, parts, admissions)
            raise
        if Busy in kinds:
            self._undo(ticket_id, parts, admissions)
            return Busy()
        return admissions[0]

    def _undo(self, ticket_id: str, parts: range, admissions: list[Admission]) -> None:
        for part, admission in zip(parts, admissions, strict=False):
            if isinstance(admission, Write):
                self._parts[part].end(ticket_id, Outcome.INTERRUPTED, 0.0)
