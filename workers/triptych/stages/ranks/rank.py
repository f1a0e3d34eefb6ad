"""One rank's own ends: where KV comes into its pool, and where it leaves."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Self

from triptych.core.trace import Lane, Recorder, Recording
from triptych.stages.ranks.gathering import all_of
from triptych.stages.ranks.messages import Arrived, Lapsed, OpenLease, SendBlocks
from triptych.transfer import KvReceiver, KvSender, PoolGeometry, SendResult, SharedSegment, TransferBackend


@dataclass(frozen=True, slots=True)
class RankKv:
    """The transfer ends of one process, be it rank 0 or another.

    Attributes:
        receiver: Takes KV into the rank's pool.
        sender: Sends KV from the rank's pool.
        recorder: Of what they move.
    """

    receiver: KvReceiver
    sender: KvSender
    recorder: Recorder = field(default_factory=Recorder)

    @classmethod
    def over(
        cls,
        pool: SharedSegment | bytearray,
        geometry: PoolGeometry,
        report: Callable[[Arrived | Lapsed], None],
        *,
        backend: TransferBackend = TransferBackend.AUTO,
        lease_s: float = 30.0,
        recorder: Recorder | None = None,
    ) -> Self:
        """The ends of a pool; `report` is called on threads of the transfer, as `KvReceiver` says."""
        recorder = recorder or Recorder()

        def received(start: float, end: float, size: int) -> None:
            if (recording := recorder.recording) is not None:
                recording.add(Lane.KV_RECEIVE, "chunk", start, end, size)

        receiver = KvReceiver(
            pool,
            geometry,
            on_complete=lambda ticket_id, size, seconds: report(Arrived(ticket_id, size, seconds)),
            on_failed=lambda ticket_id, error: report(Lapsed(ticket_id, error)),
            backend=backend,
            lease_s=lease_s,
            watch=received,
        )
        return cls(receiver, KvSender(pool, geometry, backend=backend), recorder)

    def open(self, lease: OpenLease) -> None:
        """Lets whoever has the ticket fill the blocks.

        Raises:
            TriptychError: as `KvReceiver.open`.
        """
        self.receiver.open(
            lease.ticket_id,
            lease.request_id,
            lease.epoch,
            lease.block_ids,
            len(lease.block_ids),
            router_id=lease.router_id,
        )

    def send(self, order: SendBlocks) -> "Future[None]":
        """Sends every share; done when all have arrived, or one cannot, as `KvSender.send` says."""
        ticket_id, first, blocks, last = order.ticket_id, order.first, order.block_ids, order.last
        sending = [
            self.sender.send(share.endpoint, ticket_id, first, blocks, last, share.heads) for share in order.shares
        ]
        if (recording := self.recorder.recording) is not None:
            for future in sending:
                future.add_done_callback(lambda done: _record(recording, done))
        return all_of(sending)

    def shutdown(self) -> None:
        """Waits for what is under way."""
        self.sender.shutdown()
        self.receiver.shutdown()


def _record(recording: Recording, done: "Future[SendResult]") -> None:
    if done.exception() is None:
        sent, end = done.result(), monotonic()
        recording.add(Lane.KV_SEND, f"{sent.blocks} blocks", end - sent.seconds, end, sent.bytes)
