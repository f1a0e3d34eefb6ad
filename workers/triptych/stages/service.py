"""StageService: the stream of one router, on the worker's event loop."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc

from triptych.core.errors import Internal, InvalidArgument, TriptychError, Unavailable
from triptych.core.stream import Ordering
from triptych.core.trace import Recorder
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.stages.tracing import take_trace
from triptych.wire.liveness import SILENCE_SECONDS
from triptych.wire.status import status_from_error

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger(__name__)


class Panel(Protocol):
    """What a worker does with commands; called on the event loop, must not block."""

    def welcome(self) -> pb.Welcome:
        """How the worker introduces itself."""

    def handle(self, command: Command) -> None:
        """Takes a command, any but Drain."""

    def drop_session(self, session: Session) -> None:
        """A router is gone."""

    @property
    def recorder(self) -> Recorder:
        """Of what the worker does."""


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """One session per stream; any number of routers.

    Args:
        panel: Does the work.
        drain: Takes the worker out; what comes after Drain on its stream is read when this has returned.
    """

    def __init__(self, panel: Panel, drain: Callable[[], Awaitable[None]]) -> None:
        self.sessions: set[Session] = set()
        self._panel = panel
        self._drain = drain

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Commands in, events out, until the router goes or falls silent or a command is lost; then all is freed."""
        commands = _in_order(requests)
        try:
            session = await self._open(commands)
        except TriptychError as error:
            await context.abort_with_status(status_from_error(error))
            return
        reader = asyncio.create_task(self._read(commands, session))
        reader.add_done_callback(lambda done: session.end(_reason(done)))
        # Not by way of the stream's end: a router that reads nothing may hold that up for as long as it likes.
        session.ended.add_done_callback(lambda _: self._drop(session, reader))
        try:
            while event := await session.next():
                yield event
        finally:
            session.end()
        if reason := session.ended.result():
            await context.abort_with_status(status_from_error(reason))

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceResponse:
        """Records what the worker does."""
        try:
            return pb.TraceResponse(trace=await take_trace(self._panel.recorder, request))
        except TriptychError as error:
            await context.abort_with_status(status_from_error(error))
            raise

    async def _open(self, commands: AsyncIterator[pb.ConnectRequest]) -> Session:
        first = await anext(commands, None)
        if first is None or not first.HasField("hello"):
            raise InvalidArgument("the first command of a stream is Hello")
        session = Session(first.hello.router_id, self._panel.welcome())
        self.sessions.add(session)
        return session

    async def _read(self, commands: AsyncIterator[pb.ConnectRequest], session: Session) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SILENCE_SECONDS) as silence:
            async for request in commands:
                silence.reschedule(loop.time() + SILENCE_SECONDS)
                if session.ended.done():  # it holds nothing any more, and must not come to hold anything
                    return
                if request.HasField("drain"):
                    await self._drain()
                else:
                    self._panel.handle(Command(session, request, time.monotonic()))

    def _drop(self, session: Session, reader: "asyncio.Task[None]") -> None:
        if reason := session.ended.result():
            logger.warning("the session of router %s is ended: %s", session.router_id, reason)
        reader.cancel()
        self.sessions.discard(session)
        self._panel.drop_session(session)


async def _in_order(requests: AsyncIterator[pb.ConnectRequest]) -> AsyncIterator[pb.ConnectRequest]:
    """Every command that was not there before.

    Raises:
        DataLoss: one is missing.
        InvalidArgument: one has no number.
    """
    ordering = Ordering()
    async for request in requests:
        if ordering.is_new(request.number):
            yield request


def _reason(reader: "asyncio.Task[None]") -> TriptychError | None:
    """Why the reading of commands ended; None where the router wanted it so."""
    error = None if reader.cancelled() else reader.exception()
    match error:
        case None | TriptychError():
            return error
        case TimeoutError():
            return Unavailable(f"nothing was heard of the router for {SILENCE_SECONDS:g} seconds")
        case _:
            logger.error("a stream could not be read", exc_info=error)
            return Internal(f"the worker failed to read the stream: {error}")
