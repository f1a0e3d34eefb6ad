"""Transfers that run beside the compute thread; each ends as a message in its inbox."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from triptych.core.errors import Internal, TriptychError
from triptych.core.generation import OperationKey
from triptych.engine.sequence import Media
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import ChunkSent, Fenced, MediaPulled, Message
from triptych.transfer import Endpoint, KvReceiver, KvSender, SendResult

PULL_THREADS = 4
FENCE_THREADS = 4


class Movers:
    """Pulls embeddings, pushes KV chunks, fences both.

    Args:
        receiver: Takes KV into this worker's pool.
        sender: Sends KV from this worker's pool.
        pull: Fetches the embeddings of a handle, [rows, columns]; raises TriptychError.
        post: The compute thread's inbox.
    """

    def __init__(
        self,
        receiver: KvReceiver,
        sender: KvSender,
        pull: Callable[[pb.EmbeddingHandle], Tensor],
        post: Callable[[Message], None],
    ) -> None:
        self.receiver = receiver
        self.sender = sender
        self._pull = pull
        self._post = post
        self._wanted: set[OperationKey] = set()
        self._pulls = ThreadPoolExecutor(PULL_THREADS, thread_name_prefix="pull")
        # Apart from the pulls: an encoder that hangs must not keep a Free waiting.
        self._fences = ThreadPoolExecutor(FENCE_THREADS, thread_name_prefix="fence")

    def pull(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        """Fetches embeddings; answers with `MediaPulled`, unless `drop_pull` comes first."""
        self._wanted.add(key)
        self._pulls.submit(self._pull_all, key, spans)

    def drop_pull(self, key: OperationKey) -> None:
        """Nobody wants these embeddings any more: those that are not on their way stay where they are."""
        self._wanted.discard(key)

    def push(self, key: OperationKey, ticket: pb.Ticket, first: int, blocks: list[int], *, last: bool) -> None:
        """Sends blocks to the worker that gave the ticket; answers with `ChunkSent`."""
        endpoint = Endpoint(ticket.endpoint.address, ticket.endpoint.host_id)
        future = self.sender.send(endpoint, ticket.ticket_id, first, blocks, last)
        future.add_done_callback(lambda done: self._post(ChunkSent(key, _error_of(done))))

    def fence(self, key: OperationKey, outgoing: str, incoming: str) -> None:
        """Ends the transfers of both tickets (empty: none); answers with `Fenced` when no byte can move any more."""
        self.drop_pull(key)
        self._fences.submit(self._fence, key, outgoing, incoming)

    def close(self) -> None:
        """Waits for what is under way."""
        self.sender.shutdown()
        self.receiver.shutdown()
        self._fences.shutdown()
        self._pulls.shutdown(cancel_futures=True)

    def _pull_all(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        started = time.monotonic()
        pulled: list[Media] = []
        outcome: tuple[Media, ...] | TriptychError
        try:
            for span in spans:
                if key not in self._wanted:
                    return
                pulled.append(Media(span.start, span.handle.rows, self._pull(span.handle), span.handle.content_hash))
            outcome = tuple(pulled)
        except TriptychError as error:
            outcome = error
        except Exception as error:
            outcome = Internal(f"embeddings could not be pulled: {error}")
        self._wanted.discard(key)  # before the answer, which may cause the next pull of the same key
        self._post(MediaPulled(key, outcome, time.monotonic() - started))

    def _fence(self, key: OperationKey, outgoing: str, incoming: str) -> None:
        if outgoing:
            self.sender.cancel(outgoing)
        if incoming:
            self.receiver.close(incoming)
        self._post(Fenced(key))


def _error_of(done: "Future[SendResult]") -> TriptychError | None:
    error = done.exception()
    if error is None or isinstance(error, TriptychError):
        return error
    return Internal(f"a KV chunk could not be sent: {error}")
