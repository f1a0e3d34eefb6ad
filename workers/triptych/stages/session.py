"""One router's stream, as the threads of a worker see it."""

import asyncio
import contextlib

from triptych.stage.v1 import stage_pb2 as pb

MAX_UNREAD = 16_384


class Session:
    """Takes events from any thread to one router.

    Args:
        router_id: Who is at the other end.
        loop: The loop that the stream lives on.
    """

    def __init__(self, router_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.router_id = router_id
        self._loop = loop
        self._outbox: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue()
        self._closed = False

    def send(self, event: pb.ConnectResponse) -> None:
        """Queues an event; dropped when the stream is gone, since its router has given up what it concerns."""
        if not self._closed:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed, and the stream with it
                self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: pb.ConnectResponse) -> None:
        if self._outbox.qsize() >= MAX_UNREAD and not self._closed:
            self.close()  # a router that reads nothing is not one; its requests are freed with the stream
        elif not self._closed:
            self._outbox.put_nowait(event)

    def close(self) -> None:
        """Ends the sending; on the stream's loop only."""
        self._closed = True
        self._outbox.put_nowait(None)

    async def next(self) -> pb.ConnectResponse | None:
        """The next event to write; None at the end."""
        return await self._outbox.get()
