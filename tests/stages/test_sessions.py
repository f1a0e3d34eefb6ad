"""The worker's end of a stream: what ends a session, and that everything of it is given back then."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from triptych.core.stream import Numbering
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages import service
from triptych.stages import session as session_module
from triptych.stages.messages import Command
from triptych.stages.service import StageServicer
from triptych.stages.session import Session


class Panel:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.sessions: list[Session] = []
        self.dropped: asyncio.Queue[str] = asyncio.Queue()

    def welcome(self) -> pb.Welcome:
        return pb.Welcome(worker_id="decode-0", incarnation="the same")

    def handle(self, command: Command) -> None:
        self.commands.append(command.request.WhichOneof("command") or "")
        self.sessions.append(command.session)

    async def drain(self) -> None:
        await asyncio.sleep(0)  # somebody else has a turn
        self.commands.append("drained")

    def drop_session(self, session: Session) -> None:
        self.dropped.put_nowait(session.router_id)


class Router:
    """The other end of a stream; numbers what it sends unless told otherwise."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._numbering = Numbering()

    async def send(self, kind: str = "heartbeat", number: int | None = None, **fields: Any) -> None:
        message = {"hello": pb.Hello, "heartbeat": pb.Heartbeat, "decode": pb.Decode, "drain": pb.Drain}[kind]
        number = self._numbering.next() if number is None else number
        await self.call.write(pb.ConnectRequest(number=number, **{kind: message(**fields)}))

    async def open(self) -> pb.ConnectResponse:
        await self.send("hello", router_id="r")
        return await self.read()

    async def read(self) -> pb.ConnectResponse:
        event = await asyncio.wait_for(self.call.read(), 10)
        assert isinstance(event, pb.ConnectResponse)
        return event

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the worker ends the stream."""
        async with asyncio.timeout(10):
            return await self.call.code(), await self.call.details()


Connect = Callable[[], Router]


@pytest.fixture
def panel() -> Panel:
    return Panel()


@pytest_asyncio.fixture
async def servicer(panel: Panel) -> StageServicer:
    return StageServicer(panel, panel.drain)


@pytest_asyncio.fixture
async def connect(servicer: StageServicer) -> AsyncIterator[Connect]:
    server = grpc.aio.server()
    stage_pb2_grpc.add_StageServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield lambda: Router(stage_pb2_grpc.StageServiceStub(channel).Connect())
    await server.stop(0)


async def test_a_silent_router_loses_its_session(
    panel: Panel, servicer: StageServicer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.1)
    router = connect()
    assert (await router.open()).welcome.worker_id == "decode-0"
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert await router.end() == (grpc.StatusCode.UNAVAILABLE, "nothing was heard of the router for 0.1 seconds")
    assert servicer.sessions == set()
    assert panel.dropped.empty()


async def test_a_router_that_reads_nothing_cannot_put_its_end_off(
    panel: Panel, servicer: StageServicer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More waits for it than the connection takes, so that the stream itself cannot end."""
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.3)
    router = connect()
    await router.open()
    [session] = servicer.sessions
    for _ in range(16):
        session.send(pb.ConnectResponse(failed=pb.Failed(message="x" * 2**20)))
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert servicer.sessions == set()
    router.call.cancel()


async def test_a_router_that_beats_and_reads_nothing_loses_its_session_too(
    panel: Panel, servicer: StageServicer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_UNREAD_MESSAGES", 8)
    router = connect()
    await router.open()
    [session] = servicer.sessions
    for _ in range(16):
        session.send(pb.ConnectResponse(failed=pb.Failed(message="x" * 2**20)))
    await router.send()
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert str(session.ended.result()) == "router r has left 8 events unread"
    assert servicer.sessions == set()
    router.call.cancel()


async def test_heartbeats_keep_a_session(
    panel: Panel, servicer: StageServicer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SILENCE_SECONDS", 0.5)
    router = connect()
    await router.open()
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.5
    while loop.time() < end:
        await router.send()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(panel.dropped.get(), 0.05)
    assert len(servicer.sessions) == 1
    assert set(panel.commands) == {"heartbeat"}
    await router.call.done_writing()
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"


async def test_events_are_numbered_from_welcome_on(servicer: StageServicer, connect: Connect) -> None:
    for _ in range(2):  # each stream by itself
        router = connect()
        numbers = [(await router.open()).number]
        for session in servicer.sessions:
            for _ in range(3):
                session.send(pb.ConnectResponse(load_report=pb.LoadReport()))
        numbers += [(await router.read()).number for _ in range(3)]
        assert numbers == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (4, grpc.StatusCode.DATA_LOSS, "message 3 of the stream is missing: number 4 came instead"),
        (0, grpc.StatusCode.INVALID_ARGUMENT, "a message of a stream has a number from 1 on, not 0"),
    ],
)
async def test_a_missing_command_costs_the_session(
    panel: Panel, servicer: StageServicer, connect: Connect, number: int, code: grpc.StatusCode, why: str
) -> None:
    router = connect()
    await router.open()
    await router.send("decode")
    await router.send("heartbeat", number)
    assert await router.end() == (code, why)
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    assert (panel.commands, servicer.sessions) == (["decode"], set())


@pytest.mark.parametrize(("number", "code"), [(2, grpc.StatusCode.DATA_LOSS), (0, grpc.StatusCode.INVALID_ARGUMENT)])
async def test_a_stream_that_does_not_begin_with_one_is_refused(
    panel: Panel, servicer: StageServicer, connect: Connect, number: int, code: grpc.StatusCode
) -> None:
    router = connect()
    await router.send("hello", number)
    assert (await router.end())[0] is code
    assert servicer.sessions == set()
    assert panel.dropped.empty()


async def test_a_repeated_command_is_dropped(panel: Panel, connect: Connect) -> None:
    router = connect()
    await router.open()
    await router.send("decode")
    for number in (2, 1):
        await router.send("decode", number)
    await router.send("drain")
    await router.call.done_writing()
    await asyncio.wait_for(panel.dropped.get(), 10)
    assert panel.commands == ["decode", "drained"]


async def test_what_follows_drain_is_read_when_the_worker_is_out(panel: Panel, connect: Connect) -> None:
    router = connect()
    await router.open()
    for kind in ("decode", "drain", "heartbeat"):
        await router.send(kind)
    await router.call.done_writing()
    await asyncio.wait_for(panel.dropped.get(), 10)
    assert panel.commands == ["decode", "drained", "heartbeat"]


async def test_a_session_that_is_over_holds_nothing_and_says_nothing(
    panel: Panel, servicer: StageServicer, connect: Connect
) -> None:
    """A worker that is late to learn that it was given up: its session ends, whatever it still has to say on it."""
    given_up = connect()
    await given_up.open()
    [old] = servicer.sessions
    given_up.call.cancel()
    old.send(pb.ConnectResponse(step_tokens=pb.StepTokens()))
    assert await asyncio.wait_for(panel.dropped.get(), 10) == "r"
    again = connect()
    assert (await again.open()).welcome.incarnation == "the same"
    [new] = servicer.sessions
    assert new is not old
    old.send(pb.ConnectResponse(step_tokens=pb.StepTokens()))
    new.send(pb.ConnectResponse(kv_ready=pb.KvReady()))
    assert (await again.read()).WhichOneof("event") == "kv_ready"
    await again.send("decode")
    await again.call.done_writing()
    await asyncio.wait_for(panel.dropped.get(), 10)
    assert panel.sessions == [new]
