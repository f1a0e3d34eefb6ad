"""The decode side of a KV transfer: reserved blocks, filled chunk by chunk by senders that may die at any moment."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from triptych.core.errors import DataLoss, InvalidArgument, TriptychError, Unavailable
from triptych.core.leases import Closed, Complete, Lost, Open, Outcome, Receiving, Reservation, State
from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.connection import Connection, Message
from triptych.transfer.frames import Ack, Chunk, Frame, Hello, Nak, Refusal, Welcome
from triptych.transfer.gate import Gate
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run, block_count, runs_of
from triptych.transfer.segment import Bytes, SharedSegment
from triptych.transfer.source import Source, open_source
from triptych.transfer.stats import TransferCounts, TransferStats

_log = logging.getLogger(__name__)

OnComplete = Callable[[str, int, float], None]
OnFailed = Callable[[str, TriptychError], None]


class KvReceiver:
    """Receives KV pages into reserved blocks; a service of a `TransferServer`.

    Only this process writes its pool: it copies from the sender's memory or reads from the connection, and only while
    the ticket is open. Callbacks run on threads of the transfer, without a lock held, each at most once per ticket;
    one may arrive just after `close` and then is to be ignored.

    Args:
        pool: Writable memory of the decoder's KV pool.
        geometry: Its shape.
        on_complete: `(ticket_id, bytes, seconds)`: every expected block is here and verified; the seconds are those
            spent on copying and verifying. The reservation stays until `close` or the end of its lease.
        on_failed: `(ticket_id, error)`: the lease ended (Unavailable) or the transfer was damaged too often
            (DataLoss). The ticket is closed and its blocks may be reused.
        backend: Wish; shared memory that is forced and impossible refuses the sender.
        lease_s: Seconds a reservation lives without `renew`.
        timeouts: Patience; `fence` bounds how long a stalled sender can delay `close`.
        clock: Seconds, monotonic.
        watch: `(start, end, bytes)` of every chunk that was copied and verified, by the clock.
    """

    opening: type[Frame] = Hello

    def __init__(
        self,
        pool: SharedSegment | Bytes | bytearray,
        geometry: PoolGeometry,
        *,
        on_complete: OnComplete,
        on_failed: OnFailed,
        backend: TransferBackend = TransferBackend.AUTO,
        lease_s: float = 30.0,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[float, float, int], None] = lambda start, end, size: None,
    ) -> None:
        self._pages = Pages(pool, geometry)
        if not self._pages.writable:
            raise InvalidArgument("the pool of a KV receiver must be writable", field="pool")
        self._on_complete = on_complete
        self._on_failed = on_failed
        self._backend = backend
        self._clock = clock
        self._watch = watch
        self._gate = Gate(geometry.heads, lease_s, timeouts.fence, clock)
        self._stats = TransferStats()
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, args=(lease_s / 4,), name="transfer-leases", daemon=True)
        self._sweeper.start()

    @property
    def counts(self) -> TransferCounts:
        """What was received so far."""
        return self._stats.counts

    def state(self, ticket_id: str) -> State | None:
        """State of a reservation; None when it is gone."""
        return self._gate.state(ticket_id)

    def open(
        self,
        ticket_id: str,
        request_id: str,
        epoch: int,
        block_ids: Sequence[int],
        expected_blocks: int,
        *,
        router_id: str = "",
    ) -> None:
        """Lets the holder of `ticket_id` write the first `expected_blocks` of `block_ids`.

        Raises:
            AlreadyExists: The ticket id is taken.
            InvalidArgument: The blocks are not in the pool, or fewer than expected.
            FailedPrecondition: A block is reserved by another ticket.
        """
        blocks = self._pages.geometry.blocks
        for block in block_ids:
            if not 0 <= block < blocks:
                raise InvalidArgument(f"block ids must be 0 to {blocks - 1}, got {block}", field="block_ids")
        self._gate.open(Reservation(ticket_id, router_id, request_id, epoch, tuple(block_ids), expected_blocks))

    def renew(self, router_id: str) -> int:
        """A heartbeat of a router: renews all its leases; how many."""
        return self._gate.renew(router_id)

    def close(self, ticket_id: str) -> None:
        """Ends a reservation; when this returns, nothing will write its blocks again. Idempotent.

        A chunk in flight is discarded when it ends; a sender that stalls loses its connection after the fence limit.
        """
        self._gate.close(ticket_id)

    def expire(self) -> tuple[str, ...]:
        """Closes the reservations whose lease is over, as a thread of the receiver does every quarter of a lease."""
        expired = self._gate.expire()
        for ticket_id in expired:
            self._fail(ticket_id, Unavailable(f"the lease of ticket {ticket_id} was not renewed in time"))
        return expired

    def shutdown(self) -> None:
        """Stops the lease thread; idempotent. The connections end with the server."""
        self._stopped.set()
        self._sweeper.join()

    def serve(self, connection: Connection, first: Frame) -> None:
        """Receives the chunks of one sender until it closes."""
        if not isinstance(first, Hello):
            raise InvalidArgument(f"a KV sender says Hello first, not {type(first).__name__}")
        source = open_source(first, connection, self._pages.geometry, self._backend)
        try:
            connection.send(Welcome(source.backend))
            while connection.wait():
                chunk = _checked(connection.receive(), source, self._pages.geometry)
                connection.send(self._receive(connection, chunk, source))
        finally:
            source.close()

    def _receive(self, connection: Connection, chunk: Chunk, source: Source) -> Frame:
        payload_bytes = source.payload_bytes(chunk.runs, chunk.heads)
        try:
            block_ids = self._gate.enter(chunk, connection)
        except TriptychError as error:
            connection.drain(payload_bytes)
            return Refusal.of(error)
        if not block_ids:
            connection.drain(payload_bytes)
            return Ack(chunk.ticket_id, chunk.first)
        return self._write(chunk, source, runs_of(block_ids))

    def _write(self, chunk: Chunk, source: Source, target: tuple[Run, ...]) -> Frame:
        started = self._clock()
        outcome = Outcome.INTERRUPTED
        try:
            counts = source.write_into(self._pages, chunk.runs, target, chunk.heads)
            # Our own pages are read, so that nothing between the sender's memory and here goes unnoticed.
            intact = self._pages.checksum(target, chunk.heads) == chunk.checksum
            outcome = Outcome.ARRIVED if intact else Outcome.DAMAGED
        finally:
            state = self._gate.leave(chunk.ticket_id, chunk.heads, outcome, self._clock() - started)
        size = block_count(target) * self._pages.geometry.slice_bytes(chunk.heads)
        self._watch(started, self._clock(), size)
        self._stats.add(counts + (TransferCounts(chunks=1, bytes=size) if intact else TransferCounts(mismatches=1)))
        return self._answer(chunk, intact, state)

    def _answer(self, chunk: Chunk, intact: bool, state: Open | Receiving | Complete | Lost | Closed) -> Frame:
        match state:
            case Open() | Receiving():
                return (Ack if intact else Nak)(chunk.ticket_id, chunk.first)
            case Complete(reservation, _, seconds):
                size = reservation.expected_blocks * self._pages.geometry.block_bytes
                self._tell(lambda: self._on_complete(chunk.ticket_id, size, seconds))
                return Ack(chunk.ticket_id, chunk.first)
            case Lost():
                error = DataLoss(f"blocks from {chunk.first} on of ticket {chunk.ticket_id} kept a wrong checksum")
                self._fail(chunk.ticket_id, error)
                return Refusal.of(error)
            case Closed():
                return Refusal(Unavailable.code, f"ticket {chunk.ticket_id} was closed during the transfer")

    def _fail(self, ticket_id: str, error: TriptychError) -> None:
        self._tell(lambda: self._on_failed(ticket_id, error))

    @staticmethod
    def _tell(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            _log.exception("a callback of the KV receiver failed")

    def _sweep(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            self.expire()


def _checked(message: Message, source: Source, target: PoolGeometry) -> Chunk:
    chunk, sent = message.frame, source.geometry
    if not isinstance(chunk, Chunk):
        raise InvalidArgument(f"a KV sender sends chunks, not {type(chunk).__name__}")
    if any(run.count < 1 or run.start + run.count > sent.blocks for run in chunk.runs):
        raise InvalidArgument(f"a chunk names blocks beyond the {sent.blocks} of the sender's pool", field="runs")
    for whose, geometry in (("sender", sent), ("receiver", target)):
        if not geometry.heads.holds(chunk.heads):
            raise InvalidArgument(
                f"a chunk brings KV heads {chunk.heads}, the {whose}'s pool holds {geometry.heads}", field="heads"
            )
    if message.payload_bytes != source.payload_bytes(chunk.runs, chunk.heads):
        raise InvalidArgument(f"a chunk announced {message.payload_bytes} bytes, which is not what its pages have")
    return chunk
