"""One destination of a sender: a queue, a thread, and a connection that is opened when there is something to send."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from triptych.core.errors import Cancelled, DataLoss, TriptychError, Unavailable, error_class
from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Ack, Chunk, Frame, Hello, Nak, Refusal, Welcome
from triptych.transfer.pages import Pages
from triptych.transfer.reservation import MAX_MISMATCHES
from triptych.transfer.runs import Run, block_count
from triptych.transfer.stats import TransferCounts, TransferStats

_MAX_LOSSES = 1


@dataclass(frozen=True, slots=True)
class SendResult:
    """A chunk that arrived.

    Attributes:
        ticket_id: Its ticket.
        blocks: Blocks in the chunk.
        bytes: Bytes of their pages.
        seconds: From the chunk's turn on the connection to the acknowledgement.
        backend: How it went.
    """

    ticket_id: str
    blocks: int
    bytes: int
    seconds: float
    backend: TransferBackend


@dataclass(slots=True, eq=False)
class Job:
    """A chunk to send. `checksum` is computed once, so that pages that change afterwards are noticed."""

    ticket_id: str
    first: int
    runs: tuple[Run, ...]
    last: bool
    future: "Future[SendResult]" = field(default_factory=Future)
    checksum: int | None = None
    losses: int = 0
    cancelled: bool = False


class Channel:
    """Sends jobs to one address, one at a time and in order.

    Args:
        address: "host:port" of the transfer server.
        pages: The sender's pool.
        hello: What the sender says of itself.
        timeouts: Patience; `fence` bounds how long a stalled receiver can delay `cancel`.
        idle_s: Seconds without work after which the channel retires.
        stats: Where to count.
    """

    def __init__(
        self, address: str, pages: Pages, hello: Hello, timeouts: Timeouts, idle_s: float, stats: TransferStats
    ) -> None:
        self._address = address
        self._pages = pages
        self._hello = hello
        self._timeouts = timeouts
        self._idle_s = idle_s
        self._stats = stats
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._flying: Job | None = None
        self._retired = False
        self._connection: Connection | None = None
        self._backend = TransferBackend.TCP
        self._thread = threading.Thread(target=self._run, name=f"transfer-send-{address}", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> bool:
        """Queues a job; False when the channel has retired."""
        with self._changed:
            if self._retired:
                return False
            self._queue.append(job)
            self._changed.notify_all()
            return True

    def cancel(self, ticket_id: str) -> None:
        """Drops the ticket's jobs; when this returns, none of them is sent any more."""
        self._abandon(lambda job: job.ticket_id == ticket_id, f"the transfer of ticket {ticket_id} was cancelled")

    def shutdown(self) -> None:
        """Drops every job and joins the thread; idempotent."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()
        self._abandon(lambda job: True, "the KV sender was shut down")
        self._cut()
        self._thread.join()

    def _abandon(self, concerned: Callable[[Job], bool], reason: str) -> None:
        with self._changed:
            dropped = self._drop(concerned)
            flying = self._flying if self._flying is not None and concerned(self._flying) else None
            if flying is not None:
                flying.cancelled = True
        _fail(dropped, Cancelled(reason))
        with self._changed:
            if not self._changed.wait_for(lambda: self._flying is not flying or flying is None, self._timeouts.fence):
                self._cut()
                self._changed.wait_for(lambda: self._flying is not flying)

    def _drop(self, concerned: Callable[[Job], bool]) -> list[Job]:
        with self._changed:
            dropped = [job for job in self._queue if concerned(job)]
            self._queue = deque(job for job in self._queue if not concerned(job))
            return dropped

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                connection = self._connected()
            except TriptychError as error:
                self._disconnect()
                _fail(self._drop(lambda job: True), error)
                continue
            job = self._take()
            if job is not None:
                self._deliver(connection, job)
        self._disconnect()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._retired, self._idle_s)
            self._retired = self._retired or not self._queue
            return not self._retired

    def _take(self) -> Job | None:
        with self._changed:
            self._flying = self._queue.popleft() if self._queue else None
            return self._flying

    def _deliver(self, connection: Connection, job: Job) -> None:
        try:
            result = self._exchange(connection, job)
        except Unavailable as error:
            self._disconnect()
            _fail(self._lost(job), Cancelled(error.message) if job.cancelled else error)
        except TriptychError as error:
            # Later chunks of the ticket would be out of order.
            self._land()
            _fail([job, *self._drop(lambda other: other.ticket_id == job.ticket_id)], error)
        else:
            self._land()
            job.future.set_result(result)

    def _lost(self, job: Job) -> list[Job]:
        """The jobs that fail because the connection was lost under `job`."""
        with self._changed:
            self._land()
            if job.cancelled or self._retired:
                return [job]
            if job.losses == _MAX_LOSSES:
                return [job, *self._drop(lambda other: True)]
            job.losses += 1
            self._queue.appendleft(job)
            self._stats.add(TransferCounts(reconnects=1))
            return []

    def _land(self) -> None:
        with self._changed:
            self._flying = None
            self._changed.notify_all()

    def _exchange(self, connection: Connection, job: Job) -> SendResult:
        started = time.monotonic()
        if job.checksum is None:
            job.checksum = self._pages.checksum(job.runs)
        chunk = Chunk(job.ticket_id, job.first, job.runs, job.last, job.checksum)
        over_tcp = self._backend is TransferBackend.TCP
        payload = self._pages.pieces(job.runs) if over_tcp else []
        for _ in range(1 + MAX_MISMATCHES):
            if job.cancelled:
                raise Cancelled(f"the transfer of ticket {job.ticket_id} was cancelled")
            calls = connection.send(chunk, payload)
            self._stats.add(TransferCounts(messages=calls if over_tcp else 0))
            if _acknowledged(connection.receive().frame, chunk):
                blocks = block_count(job.runs)
                size = blocks * self._pages.geometry.block_bytes
                self._stats.add(TransferCounts(chunks=1, bytes=size))
                return SendResult(job.ticket_id, blocks, size, time.monotonic() - started, self._backend)
            self._stats.add(TransferCounts(mismatches=1))
        raise DataLoss(f"blocks from {job.first} on of ticket {job.ticket_id} kept arriving with a wrong checksum")

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        connection = Connection.open(self._address, self._timeouts)
        with self._changed:
            self._connection = connection
            if self._retired:
                raise Cancelled("the KV sender was shut down")
        connection.send(self._hello)
        match connection.receive().frame:
            case Welcome(backend):
                self._backend = backend
                return connection
            case Refusal(code, message):
                raise error_class(code)(message)
            case answer:
                raise Unavailable(f"the transfer server answered Hello with {type(answer).__name__}")

    def _disconnect(self) -> None:
        with self._changed:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _cut(self) -> None:
        with self._changed:
            if self._connection is not None:
                self._connection.cut()


def _acknowledged(answer: Frame, chunk: Chunk) -> bool:
    """Whether the chunk arrived whole; False asks for another try."""
    match answer:
        case Ack(ticket_id, first) if (ticket_id, first) == (chunk.ticket_id, chunk.first):
            return True
        case Nak(ticket_id, first) if (ticket_id, first) == (chunk.ticket_id, chunk.first):
            return False
        case Refusal(code, message):
            raise error_class(code)(message)
        case _:
            raise Unavailable(f"the transfer server answered a chunk with {type(answer).__name__}")


def _fail(jobs: list[Job], error: TriptychError) -> None:
    for job in jobs:
        job.future.set_exception(error)
