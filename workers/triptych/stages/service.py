"""StageService: the stream of one router, on the worker's event loop."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.wire.liveness import SILENCE_SECONDS

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger(__name__)


class Panel(Protocol):
    """What a worker does with commands; called on the event loop, must not block."""

    def welcome(self) -> pb.Welcome:
        """How the worker introduces itself."""

    def handle(self, command: Command) -> None:
        """Takes a command."""

    def drop_session(self, session: Session) -> None:
        """A router is gone."""


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """One stream per router; any number of routers.

    Args:
        panel: Does the work.
    """

    def __init__(self, panel: Panel) -> None:
        self.sessions: set[Session] = set()
        self._panel = panel

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Commands in, events out, until the router goes or falls silent; then everything it asked for is freed."""
        hello = await anext(aiter(requests), None)
        if hello is None or not hello.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first command of a stream is Hello")
            return
        session = Session(hello.hello.router_id, asyncio.get_running_loop())
        self.sessions.add(session)
        reader = asyncio.create_task(self._read(requests, session))
        reader.add_done_callback(lambda _: self._drop(session))
        try:
            yield pb.ConnectResponse(welcome=self._panel.welcome())
            while event := await session.next():
                yield event
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.ConnectRequest], session: Session) -> None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS) as silence:
                async for request in requests:
                    silence.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
                    self._panel.handle(Command(session, request, time.monotonic()))
        except TimeoutError:
            logger.warning("nothing was heard of router %s for %g seconds", session.router_id, SILENCE_SECONDS)

    def _drop(self, session: Session) -> None:
        """Not by way of the stream's end: a router that reads nothing may hold that up for as long as it likes."""
        session.close()
        self.sessions.discard(session)
        self._panel.drop_session(session)
