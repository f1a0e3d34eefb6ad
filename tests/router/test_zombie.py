"""A worker that was stopped, given up and continued: what it still says on its old stream is heard by nobody."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from triptych.core.fleet import Stage
from triptych.core.fleet.observe import HealthLimits
from triptych.core.stream import Numbering
from triptych.router import link, stage_stream
from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.intake import Intake
from triptych.router.limits import RouterLimits
from triptych.router.links import Links
from triptych.router.server import Router
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc


class OldStream:
    """A stream as a process sees it that does not know what became of it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._numbering = Numbering()

    async def say(self, event: pb.ConnectResponse) -> None:
        event.number = self._numbering.next()
        with contextlib.suppress(Exception):  # gRPC may tell it that the stream is over
            await self._context.write(event)


class Zombie(stage_pb2_grpc.StageServiceServicer):
    """Greets while it is awake; who came before is greeted on waking, whether anybody waits for it or not."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.awake.set()
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.streams: list[OldStream] = []

    async def Connect(self, requests: AsyncIterator[pb.ConnectRequest], context: Any) -> None:  # noqa: N802
        self.asked.put_nowait((await anext(aiter(requests))).hello.router_id)
        await asyncio.shield(asyncio.create_task(self._greet(OldStream(context))))
        await asyncio.Event().wait()

    async def _greet(self, stream: OldStream) -> None:
        await self.awake.wait()
        self.streams.append(stream)  # before the router has heard of it
        await stream.say(pb.ConnectResponse(welcome=pb.Welcome(worker_id="decode-0", incarnation="the same")))


class Listener:
    """Keeps what it hears; `steps` says which report it was."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    def connected(self, welcome: pb.Welcome) -> None:
        self.heard.put_nowait(f"connected {welcome.incarnation}")

    def received(self, worker_id: str, incarnation: str, event: pb.ConnectResponse) -> None:
        self.heard.put_nowait(f"report {event.load_report.steps}")

    def lost(self, worker_id: str) -> None:
        self.heard.put_nowait("lost")

    async def next(self) -> str:
        return await asyncio.wait_for(self.heard.get(), 60)


def report(steps: int) -> pb.ConnectResponse:
    return pb.ConnectResponse(load_report=pb.LoadReport(steps=steps))


@pytest_asyncio.fixture
async def zombie() -> AsyncIterator[tuple[Zombie, str]]:
    servicer, server = Zombie(), grpc.aio.server()
    stage_pb2_grpc.add_StageServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer, address
    await server.stop(0)


async def test_a_zombie_is_fenced_and_comes_back_with_an_empty_session(
    zombie: tuple[Zombie, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "RECONNECT_SECONDS", 0.01)
    worker, address = zombie
    listener = Listener()
    links = Links("router", FleetDirectory(), listener)
    await links.place([WorkerAddress("decode-0", Stage.DECODE, address)])
    assert await listener.next() == "connected the same"
    await worker.streams[0].say(report(1))
    assert await listener.next() == "report 1"
    worker.awake.clear()
    monkeypatch.setattr(stage_stream, "SILENCE_SECONDS", 0.1)
    links.cut("decode-0", "nothing was heard of it")
    await worker.streams[0].say(report(2))  # was on its way when it was given up
    assert await listener.next() == "lost"
    for _ in range(4):  # once before, and then in vain
        await asyncio.wait_for(worker.asked.get(), 60)
    assert listener.heard.empty()
    monkeypatch.setattr(stage_stream, "SILENCE_SECONDS", 10.0)
    worker.awake.set()
    assert await listener.next() == "connected the same"
    for stream in worker.streams[:-1]:
        await stream.say(report(3))
    await worker.streams[-1].say(report(4))
    assert await listener.next() == "report 4"
    await links.close()
    assert await listener.next() == "lost"
    assert listener.heard.empty()


async def test_a_worker_that_falls_silent_is_given_up_and_called_again(
    fake_worker: Any, parts: tuple[Intake, RouterLimits], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The router's clock says so, whatever state the connection is in."""
    monkeypatch.setattr(link, "RECONNECT_SECONDS", 0.01)
    intake, limits = parts
    worker = await fake_worker("decode-0")
    router = Router("127.0.0.1:0", intake, replace(limits, health=HealthLimits(suspect=0.05, dead=0.1)))
    await router.start()
    await router.place([WorkerAddress("decode-0", Stage.DECODE, worker.address)])
    await worker.wait_for_streams(3)
    await router.stop(0)
