"""The one stream between this router and one worker: commands out, events in, reopened while the worker is placed."""

import asyncio
import logging
from typing import Protocol, TypeAlias

import grpc

from triptych.core.errors import FailedPrecondition
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.wire.limits import STAGE_MESSAGE_LIMITS
from triptych.wire.liveness import HEARTBEAT_SECONDS, KEEPALIVE, SILENCE_SECONDS

RECONNECT_SECONDS = 0.2

logger = logging.getLogger(__name__)

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]"


class LinkListener(Protocol):
    """Hears what happens on a link."""

    def connected(self, welcome: pb.Welcome) -> None:
        """The worker has introduced itself.

        Raises:
            FailedPrecondition: it is of no use to this router.
        """

    def received(self, worker_id: str, event: pb.ConnectResponse) -> None:
        """An event arrived."""

    def lost(self, worker_id: str) -> None:
        """The stream ended; whatever the worker held for this router is gone."""


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
        self._outbox: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self._connected = False
        self._task = asyncio.create_task(self._run(), name=f"link to {worker_id}")

    def send(self, command: pb.ConnectRequest) -> None:
        """Queues a command; dropped while there is no stream, since the worker holds nothing then."""
        if self._connected:
            self._outbox.put_nowait(command)

    async def close(self) -> None:
        """Ends the stream."""
        while not self._task.done():  # gRPC swallows a cancellation that meets it while it prepares a call
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RECONNECT_SECONDS)

    async def _run(self) -> None:
        options = (*STAGE_MESSAGE_LIMITS, *KEEPALIVE, ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            stub = stage_pb2_grpc.StageServiceStub(channel)
            while True:
                try:
                    await self._stream(stub)
                except grpc.RpcError as error:
                    logger.info("stream to %s ended: %s", self.worker_id, error.code())
                except TimeoutError:
                    logger.warning("nothing was heard of %s for %g seconds", self.worker_id, SILENCE_SECONDS)
                except FailedPrecondition as error:
                    logger.error("stream to %s refused: %s", self.worker_id, error)
                except Exception:  # one event that cannot be handled must not cost the worker
                    logger.exception("stream to %s failed", self.worker_id)
                finally:
                    self._drop()
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _stream(self, stub: "stage_pb2_grpc.StageServiceAsyncStub") -> None:
        call = stub.Connect()
        try:
            await call.write(pb.ConnectRequest(hello=pb.Hello(router_id=self._router_id)))
            async with asyncio.timeout(SILENCE_SECONDS):  # wait_for of Python 3.11 may swallow a cancellation
                first = await call.read()
            if isinstance(first, pb.ConnectResponse) and first.welcome.worker_id == self.worker_id:
                await self._talk(call, first.welcome)
        finally:
            call.cancel()

    async def _talk(self, call: Call, welcome: pb.Welcome) -> None:
        self._outbox = asyncio.Queue()
        self._listener.connected(welcome)
        self._connected = True
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(call), name=f"writer to {self.worker_id}")
        try:
            async with asyncio.timeout(SILENCE_SECONDS) as silence:
                while isinstance(event := await call.read(), pb.ConnectResponse):
                    silence.reschedule(loop.time() + SILENCE_SECONDS)
                    self._listener.received(self.worker_id, event)
        finally:
            writer.cancel()

    async def _write(self, call: Call) -> None:
        """Commands as they come, and heartbeats between them however many there are: leases depend on those."""
        loop = asyncio.get_running_loop()
        due = loop.time() + HEARTBEAT_SECONDS
        while True:
            command = await self._command(within=due - loop.time())
            if command is None:
                command, due = pb.ConnectRequest(heartbeat=pb.Heartbeat()), loop.time() + HEARTBEAT_SECONDS
            await call.write(command)

    async def _command(self, within: float) -> pb.ConnectRequest | None:
        if within <= 0:
            return None
        try:
            async with asyncio.timeout(within):
                return await self._outbox.get()
        except TimeoutError:
            return None

    def _drop(self) -> None:
        if self._connected:
            self._connected = False
            self._listener.lost(self.worker_id)
