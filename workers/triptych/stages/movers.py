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
        self._threads = ThreadPoolExecutor(PULL_THREADS, thread_name_prefix="mover")

    def pull(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        """Fetches embeddings; answers with `MediaPulled`."""
        self._threads.submit(self._pull_all, key, spans)

    def push(self, key: OperationKey, ticket: pb.Ticket, first: int, blocks: list[int], *, last: bool) -> None:
        """Sends blocks to the worker that gave the ticket; answers with `ChunkSent`."""
        endpoint = Endpoint(ticket.endpoint.address, ticket.endpoint.host_id)
        future = self.sender.send(endpoint, ticket.ticket_id, first, blocks, last)
        future.add_done_callback(lambda done: self._post(ChunkSent(key, _error_of(done))))

    def fence(self, key: OperationKey, outgoing: str, incoming: str) -> None:
        """Ends the transfers of both tickets (empty: none); answers with `Fenced` when no byte can move any more."""
        self._threads.submit(self._fence, key, outgoing, incoming)

    def close(self) -> None:
        """Waits for what is under way."""
        self.sender.shutdown()
        self.receiver.shutdown()
        self._threads.shutdown(cancel_futures=True)

    def _pull_all(self, key: OperationKey, spans: tuple[pb.MediaSpan, ...]) -> None:
        started = time.monotonic()
        try:
            media = tuple(Media(span.start, span.handle.rows, self._pull(span.handle)) for span in spans)
        except TriptychError as error:
            self._post(MediaPulled(key, error, time.monotonic() - started))
        except Exception as error:
            self._post(MediaPulled(key, Internal(f"embeddings could not be pulled: {error}"), 0.0))
        else:
            self._post(MediaPulled(key, media, time.monotonic() - started))

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
