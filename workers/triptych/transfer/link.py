"""A sender's open connection to one receiver: the backend they agreed on, and the exchange of one chunk."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from triptych.core.errors import Cancelled, DataLoss, Unavailable, error_class
from triptych.core.leases import MAX_MISMATCHES
from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Ack, Chunk, Hello, Nak, Refusal, Welcome
from triptych.transfer.heads import Heads
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run, block_count
from triptych.transfer.stats import TransferCounts, TransferStats


@dataclass(frozen=True, slots=True)
class SendResult:
    """A chunk that arrived.

    Attributes:
        ticket_id: Its ticket.
        blocks: Blocks in the chunk.
        bytes: What was sent of their pages.
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
    heads: Heads
    future: "Future[SendResult]" = field(default_factory=Future)
    checksum: int | None = None
    losses: int = 0
    cancelled: bool = False


class Link:
    """One connection. `cut` may be called from any thread, everything else from the channel's.

    Raises:
        Unavailable: From `greet` and `transfer`: the connection is lost or talks nonsense; close the link.
    """

    def __init__(self, address: str, pages: Pages, timeouts: Timeouts, stats: TransferStats) -> None:
        self._pages = pages
        self._stats = stats
        self._backend = TransferBackend.TCP
        self._connection = Connection.open(address, timeouts)
        self.cut: Callable[[], None] = self._connection.cut
        self.close: Callable[[], None] = self._connection.close

    def greet(self, hello: Hello) -> None:
        """Agrees on a backend; any other error is the receiver's refusal."""
        self._connection.send(hello)
        match self._connection.receive().frame:
            case Welcome(backend):
                self._backend = backend
            case Refusal(code, message):
                raise error_class(code)(message)
            case answer:
                raise Unavailable(f"the transfer server answered Hello with {type(answer).__name__}")

    def transfer(self, job: Job) -> SendResult | Refusal:
        """Sends a chunk until it is acknowledged, or refused by the receiver.

        Raises:
            DataLoss: It kept arriving with a wrong checksum.
            Cancelled: The job was cancelled between two tries.
        """
        started = time.monotonic()
        if job.checksum is None:
            job.checksum = self._pages.checksum(job.runs, job.heads)
        chunk = Chunk(job.ticket_id, job.first, job.runs, job.last, job.checksum, job.heads)
        for _ in range(1 + MAX_MISMATCHES):
            if job.cancelled:
                raise Cancelled(f"the transfer of ticket {job.ticket_id} was cancelled")
            self._send(chunk)
            match self._connection.receive().frame:
                case Ack(ticket_id, first) if (ticket_id, first) == (chunk.ticket_id, chunk.first):
                    return self._arrived(job, time.monotonic() - started)
                case Nak(ticket_id, first) if (ticket_id, first) == (chunk.ticket_id, chunk.first):
                    self._stats.add(TransferCounts(mismatches=1))
                case Refusal() as refusal:
                    return refusal
                case answer:
                    raise Unavailable(f"the transfer server answered a chunk with {type(answer).__name__}")
        raise DataLoss(f"blocks from {job.first} on of ticket {job.ticket_id} kept arriving with a wrong checksum")

    def _arrived(self, job: Job, seconds: float) -> SendResult:
        blocks = block_count(job.runs)
        size = blocks * self._pages.geometry.slice_bytes(job.heads)
        self._stats.add(TransferCounts(chunks=1, bytes=size))
        return SendResult(job.ticket_id, blocks, size, seconds, self._backend)

    def _send(self, chunk: Chunk) -> None:
        if self._backend is TransferBackend.TCP:
            calls = self._connection.send(chunk, self._pages.pieces(chunk.runs, chunk.heads))
            self._stats.add(TransferCounts(messages=calls))
        else:
            self._connection.send(chunk)
