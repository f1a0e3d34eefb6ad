"""The ledger under a lock: admits writers, and fences them out. Each head is a part that may come from elsewhere."""

import threading
from collections.abc import Callable

from triptych.core.leases import (
    Busy,
    Closed,
    Complete,
    DividedLedger,
    Duplicate,
    Lost,
    Open,
    Outcome,
    Receiving,
    Reservation,
    State,
    Write,
)
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Chunk
from triptych.transfer.heads import Heads
from triptych.transfer.runs import block_count


class Gate:
    """Thread-safe reservations. Between `enter` and `leave` a thread writes; `close` returns when none does.

    Args:
        heads: What the pool holds.
        lease_s: Seconds a reservation lives without `renew`.
        fence_s: Seconds a write may still take after its ticket was closed; then its connection is cut.
        clock: Seconds, monotonic.
    """

    def __init__(self, heads: Heads, lease_s: float, fence_s: float, clock: Callable[[], float]) -> None:
        self._heads = heads
        self._lease_s = lease_s
        self._fence_s = fence_s
        self._clock = clock
        self._ledger = DividedLedger(heads.count)
        self._changed = threading.Condition()
        self._writers: dict[tuple[str, Heads], Connection] = {}

    def state(self, ticket_id: str) -> State | None:
        """State of a reservation; None when it is gone."""
        with self._changed:
            return self._ledger.state(ticket_id)

    def open(self, reservation: Reservation) -> None:
        """Adds a reservation; errors as `Ledger.open`."""
        with self._changed:
            self._ledger.open(reservation, self._clock() + self._lease_s)

    def renew(self, router_id: str) -> int:
        """Extends every lease of a router; how many."""
        with self._changed:
            return self._ledger.renew(router_id, self._clock() + self._lease_s)

    def enter(self, chunk: Chunk, connection: Connection) -> tuple[int, ...]:
        """Blocks that the caller now must write, then `leave`; none when the chunk is here already.

        Raises:
            Unavailable, InvalidArgument: As `Ledger.begin`.
        """
        count, parts = block_count(chunk.runs), self._parts(chunk.heads)
        with self._changed:
            while True:
                match self._ledger.begin(chunk.ticket_id, parts, chunk.first, count, chunk.last, self._clock()):
                    case Write(block_ids):
                        self._writers[chunk.ticket_id, chunk.heads] = connection
                        return block_ids
                    case Duplicate():
                        return ()
                    case Busy():
                        # The sender has connected anew; its old connection may not have heard of its end.
                        self._fence(chunk.ticket_id, chunk.heads)

    def leave(
        self, ticket_id: str, heads: Heads, outcome: Outcome, seconds: float
    ) -> Open | Receiving | Complete | Lost | Closed:
        """The write has ended; what became of the reservation. One that is lost is written by nobody any more."""
        with self._changed:
            del self._writers[ticket_id, heads]
            self._changed.notify_all()
            state = self._ledger.end(ticket_id, self._parts(heads), outcome, seconds)
            if isinstance(state, Lost):
                self._fence(ticket_id, self._heads)
            return state

    def close(self, ticket_id: str) -> None:
        """Ends a reservation and waits for its writer; idempotent."""
        with self._changed:
            self._ledger.close(ticket_id)
            self._fence(ticket_id, self._heads)

    def expire(self) -> tuple[str, ...]:
        """Closes the reservations whose lease is over; their ticket ids."""
        with self._changed:
            expired = self._ledger.expire(self._clock())
            for ticket_id in expired:
                self._fence(ticket_id, self._heads)
            return expired

    def _parts(self, heads: Heads) -> range:
        return range(heads.first - self._heads.first, heads.end - self._heads.first)

    def _fence(self, ticket_id: str, heads: Heads) -> None:
        writers = {
            key: connection
            for key, connection in self._writers.items()
            if key[0] == ticket_id and key[1].meets(heads)
        }

        def gone() -> bool:
            return all(self._writers.get(key) is not connection for key, connection in writers.items())

        if not self._changed.wait_for(gone, self._fence_s):
            for connection in writers.values():
                connection.cut()
            self._changed.wait_for(gone)
