"""The receiving half of a KV transfer: chunks into leased blocks, under the ledger of the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triptych.core.errors import DataLoss, FailedPrecondition, TriptychError, Unavailable
from triptych.core.generation import OperationKey
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
    Write,
)
from triptych.simulator.memory import KvMemory
from triptych.simulator.tokens import checksum

if TYPE_CHECKING:
    from triptych.simulator.worker import Worker

FENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Blocks on the way; `values` is what arrives of the `count` that were sent."""

    ticket_id: str
    first: int
    values: tuple[int, ...]
    count: int
    last: bool
    checksum: int
    size: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The blocks are here."""


@dataclass(frozen=True, slots=True)
class Nak:
    """Send them again."""


@dataclass(frozen=True, slots=True)
class Refused:
    """They are not wanted."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection ended in the middle."""


Reply = Ack | Nak | Refused | Broken


@dataclass(slots=True, eq=False)
class Writing:
    """A copy under way."""

    chunk: Chunk
    blocks: tuple[int, ...]
    reply: Callable[[Reply], None]


class Receiver:
    """Takes chunks into one worker's memory.

    Args:
        machine: Where it runs.
        memory: What it writes.
        lease_seconds: Life of a reservation without a heartbeat.
        complete: Called with a ticket and its bytes when all blocks are here.
        failed: Called with a ticket whose blocks will never be complete.
    """

    def __init__(
        self,
        machine: Worker,
        memory: KvMemory,
        lease_seconds: float,
        complete: Callable[[str, int], None],
        failed: Callable[[str, TriptychError], None],
    ) -> None:
        self.ledger = Ledger()
        self._machine = machine
        self._memory = memory
        self._lease_seconds = lease_seconds
        self._complete = complete
        self._failed = failed
        self._writing: dict[str, Writing] = {}
        self._fences: dict[str, list[Callable[[], None]]] = {}
        self._reservations: dict[str, Reservation] = {}
        self._heartbeats: dict[str, float] = {}
        machine.every(lease_seconds / 4, self._sweep, machine.movers)

    def open(self, reservation: Reservation) -> None:
        """Leases blocks to whoever has the ticket."""
        self._reservations[reservation.ticket_id] = reservation
        self.ledger.open(reservation, self._machine.now + self._lease_seconds)

    def owner(self, ticket_id: str) -> OperationKey | None:
        """The operation that a ticket was for."""
        reservation = self._reservations.get(ticket_id)
        return OperationKey(reservation.request_id, reservation.epoch) if reservation else None

    def renew(self, router_id: str) -> None:
        """A heartbeat of a router."""
        self._heartbeats[router_id] = self._machine.now
        self.ledger.renew(router_id, self._machine.now + self._lease_seconds)

    def close(self, ticket_id: str) -> None:
        """Ends a lease whose blocks are complete."""
        self.ledger.close(ticket_id)

    def fence(self, ticket_id: str, fenced: Callable[[], None]) -> None:
        """Ends a lease; `fenced` is called when nothing writes its blocks any more."""
        self.ledger.close(ticket_id)
        writing = self._writing.get(ticket_id)
        if writing is None:
            fenced()
            return
        self._fences.setdefault(ticket_id, []).append(fenced)
        self._machine.after(FENCE_SECONDS, lambda: self._cut(writing))

    def arrive(self, chunk: Chunk, reply: Callable[[Reply], None]) -> None:
        """A chunk is here, or the part of it that came through."""
        try:
            admission = self.ledger.begin(chunk.ticket_id, chunk.first, chunk.count, chunk.last, self._machine.now)
        except TriptychError as error:
            reply(Refused(error))
            return
        match admission:
            case Duplicate():
                reply(Ack())
            case Busy():  # its sender has connected anew
                self._cut(self._writing[chunk.ticket_id])
                self.arrive(chunk, reply)
            case Write(block_ids):
                self._begin(Writing(chunk, block_ids, reply))

    def _begin(self, writing: Writing) -> None:
        chunk, machine = writing.chunk, self._machine
        self._writing[chunk.ticket_id] = writing
        half = len(chunk.values) // 2
        self._write(writing, 0, half)
        seconds = chunk.size / machine.world.spec.network.bandwidth
        machine.after(seconds, lambda: self._end(writing, half, seconds))

    def _write(self, writing: Writing, start: int, end: int) -> None:
        machine = self._machine
        assert machine.decoder is not None
        machine.world.check.writes(machine, machine.decoder, writing.chunk.ticket_id, writing.blocks)
        for place in range(start, end):
            self._memory.values[writing.blocks[place]] = writing.chunk.values[place]

    def _end(self, writing: Writing, written: int, seconds: float) -> None:
        chunk = writing.chunk
        if self._writing.get(chunk.ticket_id) is not writing:
            return
        if len(chunk.values) < chunk.count:
            self._cut(writing)
            return
        self._write(writing, written, chunk.count)
        intact = checksum(self._memory.values[block] for block in writing.blocks) == chunk.checksum
        self._settle(writing, Outcome.ARRIVED if intact else Outcome.DAMAGED, seconds)

    def _cut(self, writing: Writing) -> None:
        if self._writing.get(writing.chunk.ticket_id) is writing:
            self._settle(writing, Outcome.INTERRUPTED, 0.0)

    def _settle(self, writing: Writing, outcome: Outcome, seconds: float) -> None:
        ticket_id = writing.chunk.ticket_id
        del self._writing[ticket_id]
        match self.ledger.end(ticket_id, outcome, seconds):
            case _ if outcome is Outcome.INTERRUPTED:
                writing.reply(Broken())
            case Open():
                writing.reply(Ack() if outcome is Outcome.ARRIVED else Nak())
            case Complete(reservation):
                self._complete(ticket_id, reservation.expected_blocks)
                writing.reply(Ack())
            case Lost():
                error = DataLoss(f"blocks from {writing.chunk.first} on of ticket {ticket_id} kept a wrong checksum")
                self._failed(ticket_id, error)
                writing.reply(Refused(error))
            case Closed():
                writing.reply(Refused(FailedPrecondition(f"ticket {ticket_id} was closed during the transfer")))
        for fenced in self._fences.pop(ticket_id, ()):
            fenced()

    def _sweep(self) -> None:
        for ticket_id in self.ledger.expire(self._machine.now):
            self._machine.note("", f"the lease of {ticket_id} is over")
            heartbeat = self._heartbeats.get(self._reservations[ticket_id].router_id)
            self._machine.world.check.expired(self._machine, ticket_id, heartbeat, self._lease_seconds)
            error = Unavailable(f"the lease of ticket {ticket_id} was not renewed in time")
            self.fence(ticket_id, lambda ticket_id=ticket_id, error=error: self._failed(ticket_id, error))  # type: ignore[misc]
