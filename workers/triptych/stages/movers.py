"""Transfers that run beside the compute thread; each ends as a message in its inbox."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from triptych.core.errors import Internal, TriptychError
from triptych.core.generation import OperationKey
from triptych.core.jobs.events import ChunkAcknowledged, ChunkFailed, Fenced
from triptych.core.trace import Lane
from triptych.engine.sequence import Media
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import MediaPulled, Message, Unfenced
from triptych.stages.ranks.messages import OpenLease
from triptych.stages.ranks.replica import ReplicaKv
from triptych.stages.ranks.shares import share_to_proto, shares_of
from triptych.stages.spans import media_of
from triptych.transfer import KvReceiver

PULL_THREADS = 4
FENCE_THREADS = 32
"""Peers that may stall at once before a Free waits for another one's fence; one peer stalls one ticket at a time."""


class Movers:
    """Pulls embeddings, pushes KV chunks, fences both. A fence that fails is answered with `Unfenced`.

    Args:
        kv: The pools of the worker's ranks.
        pull: Fetches the embeddings of a handle, [1 + levels, rows, columns]; raises TriptychError.
        post: The compute thread's inbox.
    """

    def __init__(
        self,
        kv: ReplicaKv,
        pull: Callable[[pb.EmbeddingHandle], Tensor],
        post: Callable[[Message | Unfenced], None],
    ) -> None:
        self._kv = kv
        self._pull = pull
        self._post = post
        self._wanted: set[OperationKey] = set()
        self._pulls = ThreadPoolExecutor(PULL_THREADS, thread_name_prefix="pull")
        # Apart from the pulls: an encoder that hangs must not keep a Free waiting.
        self._fences = ThreadPoolExecutor(FENCE_THREADS, thread_name_prefix="fence")

    @property
    def receiver(self) -> KvReceiver:
        """Rank 0's own."""
        return self._kv.own.receiver

    def pull(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        """Fetches embeddings; answers with `MediaPulled`, unless `drop_pull` comes first."""
        self._wanted.add(key)
        self._pulls.submit(self._pull_all, key, spans)

    def drop_pull(self, key: OperationKey) -> None:
        """Nobody wants these embeddings any more: those that are not on their way stay where they are."""
        self._wanted.discard(key)

    def push(self, key: OperationKey, ticket: pb.Ticket, first: int, blocks: list[int], *, last: bool) -> None:
        """Sends blocks to the worker that gave the ticket; answers with `ChunkAcknowledged` or `ChunkFailed`."""
        try:
            wanted = shares_of(ticket, self._kv.layout.all_heads)
        except TriptychError as error:
            self._post(ChunkFailed(key, error))
            return
        future = self._kv.send(ticket.ticket_id, first, blocks, wanted, last=last)
        future.add_done_callback(lambda done: self._post(_sent(key, done)))

    def open_lease(self, key: OperationKey, ticket_id: str, blocks: list[int], router_id: str) -> None:
        """Lets whoever has the ticket fill the blocks; `KvComplete` or `KvFailed` follows, unless it is ended.

        Raises:
            TriptychError: as `KvReceiver.open`.
        """
        self._kv.open(OpenLease(ticket_id, key.request_id, key.epoch, tuple(blocks), router_id))

    def shares(self, blocks: list[int]) -> tuple[pb.KvShare, ...]:
        """What a ticket for these blocks says of the ranks; nothing where there is one."""
        return tuple(map(share_to_proto, self._kv.taking(blocks)))

    def renew(self, router_id: str) -> None:
        """A heartbeat of a router; does not block."""
        self._kv.renew(router_id)

    def close_lease(self, ticket_id: str) -> None:
        """Ends a lease that is complete; does not block."""
        self._kv.close(ticket_id)

    def stop_sending(self, key: OperationKey, ticket_id: str) -> None:
        """Fences the ticket's chunks; answers with `Fenced` when no byte of them is read any more."""
        self._fences.submit(self._fence, key, self._kv.stop_sending, ticket_id)

    def stop_receiving(self, key: OperationKey, ticket_id: str) -> None:
        """Ends the ticket; answers with `Fenced` when no byte of its blocks is written any more."""
        self._fences.submit(self._fence, key, self._kv.stop_receiving, ticket_id)

    def close(self) -> None:
        """Waits for what is under way."""
        self._kv.shutdown()
        self._fences.shutdown()
        self._pulls.shutdown(cancel_futures=True)

    def _pull_all(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        started = time.monotonic()
        pulled: dict[str, Tensor] = {}  # an image may have several spans
        outcome: tuple[Media, ...] | TriptychError
        try:
            for span in spans:
                if key not in self._wanted:
                    return
                if span.handle.content_hash not in pulled:
                    pulled[span.handle.content_hash] = self._pull(span.handle)
            outcome = tuple(media_of(span, pulled[span.handle.content_hash]) for span in spans)
        except TriptychError as error:
            outcome = error
        except Exception as error:
            outcome = Internal(f"embeddings could not be pulled: {error}")
        self._wanted.discard(key)  # before the answer, which may cause the next pull of the same key
        ended = time.monotonic()
        if (recording := self._kv.own.recorder.recording) is not None:
            size = sum(tensor.nbytes for tensor in pulled.values())
            recording.add(Lane.EMBEDDING_PULL, f"{len(pulled)} pictures", started, ended, size)
        self._post(MediaPulled(key, outcome, ended - started))

    def _fence(self, key: OperationKey, end: Callable[[str], None], ticket_id: str) -> None:
        try:
            end(ticket_id)
        except Exception as error:
            self._post(Unfenced(key, error))
        else:
            self._post(Fenced(key))


def _sent(key: OperationKey, done: "Future[None]") -> ChunkAcknowledged | ChunkFailed:
    match done.exception():
        case None:
            return ChunkAcknowledged(key)
        case TriptychError() as error:
            return ChunkFailed(key, error)
        case error:
            return ChunkFailed(key, Internal(f"a KV chunk could not be sent: {error}"))
