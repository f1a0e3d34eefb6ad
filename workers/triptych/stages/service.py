"""StageService: the stream of one router, on the worker's event loop."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages.messages import Command
from triptych.stages.session import Session

Context = grpc.aio.ServicerContext[Any, Any]


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
        """Commands in, events out, until the router goes; then everything it asked for is freed."""
        hello = await anext(aiter(requests), None)
        if hello is None or not hello.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first command of a stream is Hello")
            return
        session = Session(hello.hello.router_id, asyncio.get_running_loop())
        self.sessions.add(session)
        reader = asyncio.create_task(self._read(requests, session))
        try:
            yield pb.ConnectResponse(welcome=self._panel.welcome())
            while event := await session.next():
                yield event
        finally:
            reader.cancel()
            session.close()
            self.sessions.discard(session)
            self._panel.drop_session(session)

    async def _read(self, requests: AsyncIterator[pb.ConnectRequest], session: Session) -> None:
        try:
            async for request in requests:
                self._panel.handle(Command(session, request, time.monotonic()))
        finally:
            session.close()
