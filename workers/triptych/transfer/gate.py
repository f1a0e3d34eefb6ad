"""The ledger under a lock: admits writers, and fences them out."""

import threading
from collections.abc import Callable

from triptych.core.leases import (
    Busy,
    Closed,
    Complete,
    Duplicate,
    Ledger,
    Lost,
    Open,
    Outcome,
    Reservation,
    State,
    Write,
)
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Chunk
from triptych.transfer.runs import block_count


class Gate:
    """Thread-safe reservations. Between `enter` and `leave` a thread writes; `close` returns when none does.

    Args:
        lease_s: Seconds a reservation lives without `renew`.
        fence_s: Seconds a write may still take after its ticket was closed; then its connection is cut.
        clock: Seconds, monotonic.
    """

    def __init__(self, lease_s: float, fence_s: float, clock: Callable[[], float]) -> None:
        self._lease_s = lease_s
        self._fence_s = fence_s
        self._clock = clock
        self._ledger = Ledger()
        self._changed = threading.Condition()
        self._writers: dict[str, Connection] = {}

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
        count = block_count(chunk.runs)
        with self._changed:
            while True:
                match self._ledger.begin(chunk.ticket_id, chunk.first, count, chunk.last, self._clock()):
                    case Write(block_ids):
                        self._writers[chunk.ticket_id] = connection
                        return block_ids
                    case Duplicate():
                        return ()
                    case Busy():
                        # The sender has connected anew; its old connection may not have heard of its end.
                        self._fence(chunk.ticket_id)

    def leave(self, ticket_id: str, outcome: Outcome, seconds: float) -> Open | Complete | Lost | Closed:
        """The write has ended; what became of the reservation."""
        with self._changed:
            del self._writers[ticket_id]
            self._changed.notify_all()
            return self._ledger.end(ticket_id, outcome, seconds)

    def close(self, ticket_id: str) -> None:
        """Ends a reservation and waits for its writer; idempotent."""
        with self._changed:
            self._ledger.close(ticket_id)
            self._fence(ticket_id)

    def expire(self) -> tuple[str, ...]:
        """Closes the reservations whose lease is over; their ticket ids."""
        with self._changed:
            expired = self._ledger.expire(self._clock())
            for ticket_id in expired:
                self._fence(ticket_id)
            return expired

    def _fence(self, ticket_id: str) -> None:
        writer = self._writers.get(ticket_id)
        if writer is None:
            return

        def gone() -> bool:
            return self._writers.get(ticket_id) is not writer

        if not self._changed.wait_for(gone, self._fence_s):
            writer.cut()
            self._changed.wait_for(gone)
