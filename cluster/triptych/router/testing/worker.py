"""A decoder worker that computes nothing: it speaks the stage protocol as a real one does, as fast as it is read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from triptych.core.fleet.stage import Stage
from triptych.router.testing.stream import QuickStream, Script, Tally
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.wire.stage import stage_to_proto


class QuickWorker(stage_pb2_grpc.StageServiceServicer):
    """Answers a prompt of n tokens with `script.token(n, 0)`, `script.token(n, 1)`, … up to its `max_tokens`.

    Args:
        worker_id: Its name.
        role: PREFILL or DECODE.
        model: What it claims to serve.
        vocabulary: Token ids that answers are made of.

    Attributes:
        address: "host:port" once it serves.
        script: What it says, and how fast; may be changed while it serves.
        tally: What it has seen and done.
    """

    def __init__(self, worker_id: str, role: Stage, model: str, vocabulary: range) -> None:
        self.address = "127.0.0.1:0"
        self.script = Script(vocabulary)
        self.tally = Tally()
        self.worker_id = worker_id
        self._welcome = pb.Welcome(
            worker_id=worker_id,
            incarnation="1",
            stages=[pb.STAGE_PREFILL, pb.STAGE_DECODE],
            role=stage_to_proto(role),
            model=model,
            block_size=16,
            total_blocks=1 << 20,
        )
        self._streams: set[QuickStream] = set()
        self._server: grpc.aio.Server | None = None

    @property
    def held(self) -> int:
        """Operations whose Free has not come."""
        return sum(len(stream.held) for stream in self._streams)

    async def start(self) -> None:
        """Listens."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        stage_pb2_grpc.add_StageServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        await self._server.start()

    async def stop(self) -> None:
        """Ends every stream."""
        if self._server:
            await self._server.stop(0)

    def hang_up(self) -> None:
        """Ends every stream, as a worker does that has lost a message; what they held is forgotten."""
        for stream in self._streams:
            stream.end()

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Serves one router."""
        stream = QuickStream(self.script, self.tally)
        stream.say(pb.ConnectResponse(welcome=self._welcome))
        self._streams.add(stream)
        reader = asyncio.create_task(stream.read(requests))
        try:
            async for event in stream.events():
                yield event
        finally:
            reader.cancel()
            self._streams.discard(stream)
