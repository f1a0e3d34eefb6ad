"""The prefill side of a KV transfer: chunks go out in order, and come back as futures."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from triptych.core.errors import FailedPrecondition, InvalidArgument, TriptychError, Unavailable
from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.channel import Channel
from triptych.transfer.frames import Hello
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import Heads
from triptych.transfer.host import host_id
from triptych.transfer.link import Job, SendResult
from triptych.transfer.pages import Pages
from triptych.transfer.runs import runs_of
from triptych.transfer.segment import Bytes, SharedSegment
from triptych.transfer.server import Endpoint
from triptych.transfer.stats import TransferCounts, TransferStats


class KvSender:
    """Sends blocks of this worker's pool into the blocks that a ticket reserves elsewhere.

    Each destination has one connection and one thread; chunks to it go in the order of `send`. With shared memory
    the receiver copies; with TCP the pages are sent from where they lie.

    Args:
        pool: Memory of the prefill worker's KV pool; a `SharedSegment` when shared memory may be used.
        geometry: Its shape.
        backend: Wish; shared memory that is forced and impossible fails the transfer.
        timeouts: Patience; `fence` bounds how long a stalled receiver can delay `cancel`.
        idle_s: Seconds without work after which a connection is given back.
    """

    def __init__(
        self,
        pool: SharedSegment | Bytes | bytearray,
        geometry: PoolGeometry,
        *,
        backend: TransferBackend = TransferBackend.AUTO,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        idle_s: float = 60.0,
    ) -> None:
        self._pages = Pages(pool, geometry)
        self._backend = backend
        shared = pool if isinstance(pool, SharedSegment) and backend is not TransferBackend.TCP else None
        self._hello = Hello(backend, host_id(), geometry, None if shared is None else shared.ref)
        self._timeouts = timeouts
        self._idle_s = idle_s
        self._stats = TransferStats()
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._stopped = False

    @property
    def counts(self) -> TransferCounts:
        """What was sent so far."""
        return self._stats.counts

    def send(
        self,
        endpoint: Endpoint,
        ticket_id: str,
        first_block_index: int,
        block_ids: Sequence[int],
        last: bool,
        heads: Heads | None = None,
    ) -> "Future[SendResult]":
        """Queues the blocks `block_ids` for position `first_block_index` on of the ticket's blocks.

        Of each block the `heads` are sent, all that the pool holds where none are given. The blocks must keep their
        contents until the future is done or `cancel` has returned. Once a chunk has failed, the ticket's chunks
        behind it fail alike.

        Returns:
            A future of the receiver's acknowledgement. It raises Unavailable (the connection was lost twice or cannot
            be opened, or the receiver refuses the chunk: another ticket helps), DataLoss (the checksum stayed wrong),
            FailedPrecondition (no common backend), InvalidArgument (pages of another shape, no such block or
            head) or Cancelled. Its callbacks must not call `shutdown`.
        """
        job = Job(ticket_id, first_block_index, runs_of(block_ids), last, heads or self._pages.geometry.heads)
        # A future that runs cannot be cancelled behind our back; `cancel` is the way.
        job.future.set_running_or_notify_cancel()
        try:
            self._check(endpoint, block_ids, job.heads)
        except TriptychError as error:
            job.future.set_exception(error)
            return job.future
        with self._lock:
            if self._stopped:
                job.future.set_exception(Unavailable("the KV sender was shut down"))
                return job.future
            channel = self._channels.get(endpoint.address)
            if channel is None or not channel.put(job):
                self._open_channel(endpoint.address, job)
        return job.future

    def cancel(self, ticket_id: str) -> None:
        """Drops the ticket's chunks; when this returns, its source blocks may be reused. Idempotent.

        A chunk in flight may still arrive. One that stalls loses its connection after the fence limit; chunks of
        other tickets behind it then go over a new one.
        """
        for channel in self._known_channels():
            channel.cancel(ticket_id)

    def shutdown(self) -> None:
        """Drops everything and joins the threads; idempotent."""
        with self._lock:
            self._stopped = True
        for channel in self._known_channels():
            channel.shutdown()

    def _open_channel(self, address: str, first: Job) -> None:
        self._channels = {known: channel for known, channel in self._channels.items() if not channel.retired}
        self._channels[address] = Channel(
            first, address, self._pages, self._hello, self._timeouts, self._idle_s, self._stats
        )

    def _known_channels(self) -> list[Channel]:
        with self._lock:
            return list(self._channels.values())

    def _check(self, endpoint: Endpoint, block_ids: Sequence[int], heads: Heads) -> None:
        blocks, held = self._pages.geometry.blocks, self._pages.geometry.heads
        if not held.holds(heads):
            raise InvalidArgument(f"the pool holds KV heads {held}, not {heads}", field="heads")
        if not block_ids:
            raise InvalidArgument("a chunk has at least one block", field="block_ids")
        for block in block_ids:
            if not 0 <= block < blocks:
                raise InvalidArgument(f"block ids must be 0 to {blocks - 1}, got {block}", field="block_ids")
        if self._backend is TransferBackend.SHARED_MEMORY and endpoint.host_id != host_id():
            raise FailedPrecondition(
                f"shared memory is forced, but {endpoint.address} is on another host", field="transfer_backend"
            )
