"""One router's stream, as the threads of a worker see it."""

import asyncio
import contextlib

from triptych.core.errors import ResourceExhausted, TriptychError
from triptych.core.stream import Numbering
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.limits import MAX_UNREAD_MESSAGES


class Session:
    """Takes events from any thread to one router.

    Args:
        router_id: Who is at the other end.
        welcome: The first event.

    Attributes:
        ended: Done when the session is over, with the reason where this side has ended it; its work is to be freed.
    """

    def __init__(self, router_id: str, welcome: pb.Welcome) -> None:
        self.router_id = router_id
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[TriptychError | None] = self._loop.create_future()
        self._outbox: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue()
        self._outbox.put_nowait(pb.ConnectResponse(welcome=welcome))
        self._numbering = Numbering()

    def send(self, event: pb.ConnectResponse) -> None:
        """Queues an event, which gets its number here; dropped when the stream is gone, since nobody waits for it."""
        if not self.ended.done():
            with contextlib.suppress(RuntimeError):  # the loop has just been closed, and the stream with it
                self._loop.call_soon_threadsafe(self._put, event)

    def end(self, reason: TriptychError | None = None) -> None:
        """Nothing is sent any more, not even what waits; on the stream's loop only, the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(reason)
            while not self._outbox.empty():
                self._outbox.get_nowait()
            self._outbox.put_nowait(None)

    async def next(self) -> pb.ConnectResponse | None:
        """The next event to write; None at the end."""
        if event := await self._outbox.get():
            event.number = self._numbering.next()
        return event

    def _put(self, event: pb.ConnectResponse) -> None:
        if self._outbox.qsize() >= MAX_UNREAD_MESSAGES:
            self.end(ResourceExhausted(f"router {self.router_id} has left {MAX_UNREAD_MESSAGES} events unread"))
        elif not self.ended.done():
            self._outbox.put_nowait(event)
