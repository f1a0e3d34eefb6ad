"""The one stream between this router and one worker: commands out, events in, reopened while the worker is placed."""

import asyncio
import logging
from typing import Protocol

import grpc

from triptych.core.errors import FailedPrecondition, TriptychError, Unavailable
from triptych.router.stage_stream import StageStream
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.wire.limits import STAGE_MESSAGE_LIMITS
from triptych.wire.liveness import KEEPALIVE, RECONNECT

RECONNECT_SECONDS = 0.2

logger = logging.getLogger(__name__)


class LinkListener(Protocol):
    """Hears what happens on a link."""

    def connected(self, welcome: pb.Welcome) -> None:
        """The worker has introduced itself.

        Raises:
            FailedPrecondition: it is of no use to this router.
        """

    def received(self, worker_id: str, incarnation: str, event: pb.ConnectResponse) -> None:
        """An event arrived, from that process."""

    def lost(self, worker_id: str) -> None:
        """The stream ended, once per `connected`; whatever the worker held for this router is gone."""


class WorkerLink:
    """Keeps a stream to one worker open.

    Args:
        worker_id: Whom to expect at the address.
        address: "host:port".
        router_id: How this router names itself.
        listener: Hears the events.
    """

    def __init__(self, worker_id: str, address: str, router_id: str, listener: LinkListener) -> None:
        self.worker_id = worker_id
        self.address = address
        self._router_id = router_id
        self._listener = listener
        self._stream: StageStream | None = None
        self._task = asyncio.create_task(self._run(), name=f"link to {worker_id}")

    def send(self, command: pb.ConnectRequest) -> None:
        """Queues a command; dropped while there is no stream, since the worker holds nothing then."""
        if self._stream:
            self._stream.send(command)

    def cut(self, reason: str) -> None:
        """Ends the stream: no command goes out and no event comes in by it any more, whatever the worker says.

        The listener hears `lost` from the link's own task, never from within this call; then a new stream is opened.
        """
        if self._stream:
            self._stream.end(Unavailable(reason))

    async def close(self) -> None:
        """Ends the stream."""
        while not self._task.done():  # gRPC swallows a cancellation that meets it while it prepares a call
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RECONNECT_SECONDS)

    async def _run(self) -> None:
        options = (*STAGE_MESSAGE_LIMITS, *KEEPALIVE, *RECONNECT, ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            stub = stage_pb2_grpc.StageServiceStub(channel)
            while True:
                try:
                    await self._connect(stub)
                except grpc.aio.AioRpcError as error:
                    logger.info("stream to %s ended: %s %s", self.worker_id, error.code(), error.details())
                except FailedPrecondition as error:
                    logger.error("stream to %s refused: %s", self.worker_id, error)
                except TriptychError as error:
                    logger.warning("stream to %s ended: %s", self.worker_id, error)
                except Exception:  # one event that cannot be handled must not cost the worker
                    logger.exception("stream to %s failed", self.worker_id)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self, stub: "stage_pb2_grpc.StageServiceAsyncStub") -> None:
        call = stub.Connect()
        try:
            stream = StageStream(call)
            welcome = await stream.greet(self._router_id)
            if welcome and welcome.worker_id == self.worker_id:
                await self._talk(stream, welcome)
        finally:
            call.cancel()

    async def _talk(self, stream: StageStream, welcome: pb.Welcome) -> None:
        self._stream = stream  # before `connected`, from within which whatever waits for this worker is sent
        try:
            self._listener.connected(welcome)
            try:
                await stream.talk(lambda event: self._listener.received(self.worker_id, welcome.incarnation, event))
            finally:
                self._stream = None
                self._listener.lost(self.worker_id)
        finally:
            self._stream = None
