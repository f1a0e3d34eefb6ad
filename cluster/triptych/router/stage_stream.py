"""One stream to a worker, from Hello to its end: commands out and events in, numbered both ways."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import grpc

from triptych.core.errors import ResourceExhausted, TriptychError, Unavailable
from triptych.core.stream import Numbering, Ordering
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.limits import MAX_UNREAD_MESSAGES
from triptych.wire.liveness import HEARTBEAT_SECONDS, SILENCE_SECONDS

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]"


class StageStream:
    """Ends by itself when a message is missing or the worker reads nothing; whoever knows more calls `end`.

    Args:
        call: Just begun.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._outbox: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self._sent = Numbering()
        self._received = Ordering()
        self._reading: asyncio.Timeout | None = None
        self._reason: TriptychError | None = None

    async def greet(self, router_id: str) -> pb.Welcome | None:
        """Says Hello and waits for the answer; None when the worker hangs up instead.

        Raises:
            Unavailable: nothing came.
            grpc.RpcError: the worker cannot be reached.
        """
        await self._write_numbered(pb.ConnectRequest(hello=pb.Hello(router_id=router_id)))
        try:
            async with asyncio.timeout(SILENCE_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                first = await self._next()
        except TimeoutError:
            silence = f"nothing was heard of the worker for {SILENCE_SECONDS:g} seconds"
            raise Unavailable(silence) from None
        return first.welcome if first else None

    def send(self, command: pb.ConnectRequest) -> None:
        """Queues a command, which gets its number here; dropped when the stream is ending."""
        if self._reason is None:
            if self._outbox.qsize() >= MAX_UNREAD_MESSAGES:
                self.end(ResourceExhausted(f"the worker has left {MAX_UNREAD_MESSAGES} commands unread"))
            else:
                self._outbox.put_nowait(command)

    def end(self, reason: TriptychError) -> None:
        """Nothing is sent and nothing that comes is handed on from now; `talk` raises the reason."""
        if self._reason is None:
            self._reason = reason
            if self._reading:
                self._reading.reschedule(asyncio.get_running_loop().time())

    async def talk(self, receive: Callable[[pb.ConnectResponse], None]) -> None:
        """Hands every event to `receive` until the worker hangs up.

        Raises:
            TriptychError: why the stream was ended on this side.
            grpc.RpcError: the worker has ended it, or cannot be reached any more.
        """
        writer = asyncio.create_task(self._write())
        writer.add_done_callback(self._writer_ended)
        try:
            async with asyncio.timeout(None) as self._reading:  # expires when `end` says so
                await self._read(receive)
        except TimeoutError:
            if not self._reason:
                raise
        finally:
            self._reading = None
            writer.cancel()
        if self._reason:
            raise self._reason

    async def _read(self, receive: Callable[[pb.ConnectResponse], None]) -> None:
        while self._reason is None and (event := await self._next()):
            if self._reason is None:  # it may have been ended while this event was under way
                receive(event)

    async def _next(self) -> pb.ConnectResponse | None:
        """The next message that was not there before; None when the worker has hung up."""
        while isinstance(event := await self._call.read(), pb.ConnectResponse):
            if self._received.is_new(event.number):
                return event
        return None

    async def _write(self) -> None:
        """Commands as they come, and heartbeats between them however many there are: leases depend on those."""
        loop = asyncio.get_running_loop()
        due = loop.time() + HEARTBEAT_SECONDS
        while True:
            command = await self._command(within=due - loop.time())
            if command is None:
                command, due = pb.ConnectRequest(heartbeat=pb.Heartbeat()), loop.time() + HEARTBEAT_SECONDS
            await self._write_numbered(command)

    async def _command(self, within: float) -> pb.ConnectRequest | None:
        if within <= 0:
            return None
        if not self._outbox.empty():
            return self._outbox.get_nowait()
        try:
            async with asyncio.timeout(within):
                return await self._outbox.get()
        except TimeoutError:
            return None

    async def _write_numbered(self, command: pb.ConnectRequest) -> None:
        command.number = self._sent.next()
        await self._call.write(command)

    def _writer_ended(self, writer: "asyncio.Task[None]") -> None:
        """A call that has broken ends the reading too, and says why there; anything else has to be said here."""
        if not writer.cancelled() and (error := writer.exception()) and not self._call.done():
            self.end(Unavailable(f"a command could not be written: {error}"))
