"""Tickets whose blocks several ranks receive: complete when all of them say so, failed when one does. Pure."""

from dataclasses import dataclass, replace

from triptych.core.generation import OperationKey
from triptych.core.jobs.events import KvComplete
from triptych.stages.ranks.messages import Arrived, OpenLease


@dataclass(frozen=True, slots=True)
class Receiving:
    """A ticket that is open on its ranks.

    Attributes:
        key: The operation that holds the blocks.
        ranks: Who receives.
        missing: Those that have not received everything yet.
        size: Bytes that the others have received.
        seconds: The longest that one of them took.
    """

    key: OperationKey
    ranks: range
    missing: frozenset[int]
    size: int = 0
    seconds: float = 0.0


class Tickets:
    """All tickets of a replica that have not been ended. Not thread-safe: its user holds a lock."""

    def __init__(self) -> None:
        self._open: dict[str, Receiving] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """Of those that are open."""
        return tuple(self._open)

    def open(self, lease: OpenLease, ranks: range) -> None:
        """A ticket is given out."""
        key = OperationKey(lease.request_id, lease.epoch)
        self._open[lease.ticket_id] = Receiving(key, ranks, frozenset(ranks))

    def arrived(self, rank: int, arrived: Arrived) -> KvComplete | None:
        """A rank has received everything; set when it was the last one. What comes twice or too late is ignored."""
        before = self._open.get(arrived.ticket_id)
        if before is None or rank not in before.missing:
            return None
        after = self._open[arrived.ticket_id] = replace(
            before,
            missing=before.missing - {rank},
            size=before.size + arrived.size,
            seconds=max(before.seconds, arrived.seconds),
        )
        return None if after.missing else KvComplete(arrived.ticket_id, after.size, after.seconds)

    def fail(self, ticket_id: str) -> Receiving | None:
        """Ends a ticket that a rank cannot complete; None when it has been ended, or is complete."""
        ticket = self._open.get(ticket_id)
        return self._open.pop(ticket_id) if ticket and ticket.missing else None

    def end(self, ticket_id: str) -> Receiving | None:
        """Ends a ticket; None when it has been ended."""
        return self._open.pop(ticket_id, None)
