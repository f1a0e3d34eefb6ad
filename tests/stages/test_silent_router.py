"""A worker gives a router up that says nothing, whatever state its connection is in."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages import service
from triptych.stages.messages import Command
from triptych.stages.service import StageServicer
from triptych.stages.session import Session


class Panel:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.dropped: asyncio.Queue[str] = asyncio.Queue()

    def welcome(self) -> pb.Welcome:
        return pb.Welcome(worker_id="decode-0")

    def handle(self, command: Command) -> None:
        self.commands.append(command.request.WhichOneof("command") or "")

    def drop_session(self, session: Session) -> None:
        self.dropped.put_nowait(session.router_id)


@pytest.fixture
def panel() -> Panel:
    return Panel()


@pytest_asyncio.fixture
async def servicer(panel: Panel) -> StageServicer:
    return StageServicer(panel)


@pytest_asyncio.fixture
async def stub(servicer: StageServicer) -> AsyncIterator["stage_pb2_grpc.StageServiceAsyncStub"]:
    server = grpc.aio.server()
    stage_pb2_grpc.add_StageServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stage_pb2_grpc.StageServiceStub(channel)
    await server.stop(0)


HELLO = pb.ConnectRequest(hello=pb.Hello(router_id="r"))
HEARTBEAT = pb.ConnectRequest(heartbeat=pb.Heartbeat())


async def test_a_silent_router_loses_its_session(
    panel: Panel,
    servicer: StageServicer,
    stub: "stage_pb2_grpc.StageServiceAsyncStub",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.1)
    call = stub.Connect()
    await call.write(HELLO)
    assert (await call.read()).welcome.worker_id == "decode-0"
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert await asyncio.wait_for(call.read(), 10) is grpc.aio.EOF
    assert servicer.sessions == set()
    assert panel.dropped.empty()


async def test_a_router_that_reads_nothing_cannot_put_its_end_off(
    panel: Panel,
    servicer: StageServicer,
    stub: "stage_pb2_grpc.StageServiceAsyncStub",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More waits for it than the connection takes, so that the stream itself cannot end."""
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.3)
    call = stub.Connect()
    await call.write(HELLO)
    await call.read()
    [session] = servicer.sessions
    for _ in range(16):
        session.send(pb.ConnectResponse(failed=pb.Failed(message="x" * 2**20)))
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert servicer.sessions == set()
    call.cancel()


async def test_heartbeats_keep_a_session(
    panel: Panel,
    servicer: StageServicer,
    stub: "stage_pb2_grpc.StageServiceAsyncStub",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.5)
    call = stub.Connect()
    await call.write(HELLO)
    await call.read()
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.5
    while loop.time() < end:
        await call.write(HEARTBEAT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(panel.dropped.get(), 0.05)
    assert len(servicer.sessions) == 1
    assert set(panel.commands) == {"heartbeat"}
    await call.done_writing()
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
