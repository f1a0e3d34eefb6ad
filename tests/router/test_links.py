"""The stream to one worker: opened, kept alive, opened again, and replaced when the worker moves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from triptych.core.fleet import Stage
from triptych.router import link as link_module
from triptych.router import stage_stream
from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.links import Links
from triptych.stage.v1 import stage_pb2 as pb


class Listener:
    """Remembers what it hears; raises for an event that says so."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.changed = asyncio.Condition()

    def connected(self, welcome: pb.Welcome) -> None:
        self._note(f"connected {welcome.worker_id}")

    def received(self, worker_id: str, incarnation: str, event: pb.ConnectResponse) -> None:
        if event.HasField("failed"):
            raise ValueError("an event that nobody expected")
        self._note(f"{event.WhichOneof('event')} {worker_id}")

    def lost(self, worker_id: str) -> None:
        self._note(f"lost {worker_id}")

    async def wait_for(self, note: str, count: int = 1) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.heard.count(note) >= count), 60)

    def _note(self, note: str) -> None:
        self.heard.append(note)
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest_asyncio.fixture
async def links(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Links]:
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", 0.01)
    made = Links("this router", FleetDirectory(), listener)
    yield made
    await made.close()


def at(worker: Any, address: str | None = None) -> WorkerAddress:
    return WorkerAddress(worker.worker_id, Stage.DECODE, worker.address if address is None else address)


async def test_commands_go_out_and_events_come_in(links: Links, listener: Listener, fake_worker: Any) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    for number in range(3):
        links.send("decode-0", pb.ConnectRequest(free=pb.Free(key=pb.OperationKey(request_id=str(number)))))
    assert [c.free.key.request_id for c in await worker.wait_for("free", 3)] == ["0", "1", "2"]
    await listener.wait_for("freed decode-0", 3)
    assert worker.routers == ["this router"]


async def test_a_broken_stream_is_opened_again(links: Links, listener: Listener, fake_worker: Any) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    worker.hang_up()
    await listener.wait_for("connected decode-0", 2)
    assert listener.heard == ["connected decode-0", "lost decode-0", "connected decode-0"]


async def test_a_worker_that_comes_back_at_its_address_is_found(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    await worker.stop()
    await listener.wait_for("lost decode-0")
    links.send("decode-0", pb.ConnectRequest(free=pb.Free()))
    await worker.start()
    await listener.wait_for("connected decode-0", 2)
    links.send("decode-0", pb.ConnectRequest(free=pb.Free(key=pb.OperationKey(request_id="kept"))))
    assert [c.free.key.request_id for c in await worker.wait_for("free")] == ["kept"]


async def test_a_moved_worker_gets_a_new_stream_and_a_removed_one_loses_it(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    old, new = await fake_worker("decode-0"), await fake_worker("decode-0")
    await links.place([at(old)])
    await listener.wait_for("connected decode-0")
    await links.place([at(new)])
    await listener.wait_for("connected decode-0", 2)
    links.send("decode-0", pb.ConnectRequest(free=pb.Free()))
    await new.wait_for("free")
    assert old.commands == []
    await links.place([at(new, "")])
    assert [note for note in listener.heard if note.startswith(("connected", "lost"))] == [
        "connected decode-0",
        "lost decode-0",
        "connected decode-0",
        "lost decode-0",
    ]


async def test_placements_that_overlap_end_with_the_last_one(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    """Two watchers publish at once; the older view must not bring a dead address back."""
    first, old, new = await fake_worker("decode-0"), await fake_worker("decode-1"), await fake_worker("decode-1")
    await links.place([at(first), at(old)])
    await listener.wait_for("connected decode-1")
    await asyncio.gather(links.place([at(first, ""), at(old)]), links.place([at(first, ""), at(new)]))
    await listener.wait_for("connected decode-1", 2)
    links.send("decode-1", pb.ConnectRequest(free=pb.Free()))
    await new.wait_for("free")
    assert old.commands == []


async def test_another_worker_at_the_address_is_not_taken_for_the_expected_one(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    stranger = await fake_worker("prefill-7")
    await links.place([WorkerAddress("decode-0", Stage.DECODE, stranger.address)])
    await stranger.wait_for_streams(3)
    assert listener.heard == []


async def test_heartbeats_come_however_busy_the_stream_is(
    links: Links, listener: Listener, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_stream, "HEARTBEAT_SECONDS", 0.05)
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")

    async def keep_busy() -> None:
        while True:
            links.send("decode-0", pb.ConnectRequest(decode=pb.Decode()))
            await asyncio.sleep(0.002)

    busy = asyncio.create_task(keep_busy())
    await worker.wait_for("heartbeat", 3)
    await worker.wait_for("decode", 4)
    busy.cancel()
    count = len(await worker.wait_for("heartbeat"))
    await worker.wait_for("heartbeat", count + 2)


async def test_a_worker_that_takes_the_stream_and_never_answers_is_called_again(
    links: Links, listener: Listener, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_stream, "SILENCE_SECONDS", 0.1)
    worker = await fake_worker("decode-0", mute=True)
    await links.place([at(worker)])
    await worker.wait_for_streams(2)
    assert listener.heard == []


async def test_an_event_that_cannot_be_handled_costs_the_stream_and_not_the_worker(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    worker.say(pb.ConnectResponse(failed=pb.Failed()))
    await listener.wait_for("connected decode-0", 2)
    assert listener.heard == ["connected decode-0", "lost decode-0", "connected decode-0"]


async def test_as_much_as_a_client_may_send_fits_a_command(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    """Pictures that just fit the front door's message come with their hashes and names on the way to the encoder."""
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    image = pb.EncodeImage(content_hash="0" * 64, data=bytes(2**20), field="chat.messages[0].parts[0].image")
    links.send("decode-0", pb.ConnectRequest(encode=pb.Encode(images=[image] * 64)))
    [command] = await worker.wait_for("encode")
    assert len(command.encode.images) == 64
    assert listener.heard == ["connected decode-0"]


async def test_a_link_closes_whatever_it_is_doing(
    listener: Listener, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC swallows a cancellation that meets it while it connects; nobody listens here, so it mostly does that."""
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", 0.001)
    worker = await fake_worker("decode-0")
    await worker.stop()
    for number in range(60):
        links = Links("this router", FleetDirectory(), listener)
        await links.place([at(worker)])
        await asyncio.sleep(number * 0.0002)
        await asyncio.wait_for(links.close(), 60)
    assert listener.heard == []


REPORT = pb.ConnectResponse(load_report=pb.LoadReport())


@pytest.mark.parametrize(
    ("number", "why"), [(3, "message 2 of the stream is missing"), (0, "a number from 1 on, not 0")]
)
async def test_a_missing_event_costs_the_stream_and_is_logged(
    links: Links,
    listener: Listener,
    fake_worker: Any,
    caplog: pytest.LogCaptureFixture,
    number: int,
    why: str,
) -> None:
    worker = await fake_worker("decode-0")
    worker.renumbered = {2: number}
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    worker.say(REPORT)
    await listener.wait_for("connected decode-0", 2)
    assert listener.heard == ["connected decode-0", "lost decode-0", "connected decode-0"]
    assert why in caplog.text


async def test_a_repeated_event_is_dropped(links: Links, listener: Listener, fake_worker: Any) -> None:
    worker = await fake_worker("decode-0")
    worker.renumbered = {3: 2, 4: 1, 5: 3}
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    for kind in ("reserved", "freed", "kv_ready", "load_report"):
        worker.say(pb.ConnectResponse(**{kind: getattr(pb.ConnectResponse(), kind)}))
    await listener.wait_for("load_report decode-0")
    assert listener.heard == ["connected decode-0", "reserved decode-0", "load_report decode-0"]


async def test_a_worker_that_does_not_begin_with_one_is_called_again(
    links: Links, listener: Listener, fake_worker: Any
) -> None:
    worker = await fake_worker("decode-0")
    worker.renumbered = {1: 2}
    await links.place([at(worker)])
    await worker.wait_for_streams(3)
    assert listener.heard == []


async def test_every_stream_counts_from_one(links: Links, listener: Listener, fake_worker: Any) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    for stream in (1, 2):
        await listener.wait_for("connected decode-0", stream)
        for _ in range(3):
            links.send("decode-0", pb.ConnectRequest(decode=pb.Decode()))
        await worker.wait_for("decode", 3 * stream)
        worker.hang_up()
    assert [command.number for command in worker.commands if command.HasField("decode")] == [2, 3, 4, 2, 3, 4]


async def test_a_worker_that_reads_nothing_loses_its_stream(
    links: Links,
    listener: Listener,
    fake_worker: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stage_stream, "MAX_UNREAD_MESSAGES", 3)
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    for _ in range(5):  # with nothing in between in which they could be written
        links.send("decode-0", pb.ConnectRequest(decode=pb.Decode()))
    await listener.wait_for("connected decode-0", 2)
    assert listener.heard == ["connected decode-0", "lost decode-0", "connected decode-0"]
    assert "left 3 commands unread" in caplog.text


async def test_a_stream_that_is_cut_is_over_at_once_and_opened_again(
    links: Links, listener: Listener, fake_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("connected decode-0")
    links.cut("decode-0", "it has been silent for too long")
    links.cut("decode-0", "another reason")
    links.cut("somebody else", "nobody has heard of it")
    links.send("decode-0", pb.ConnectRequest(decode=pb.Decode()))
    worker.say(REPORT)
    assert listener.heard == ["connected decode-0"]
    await listener.wait_for("connected decode-0", 2)
    links.send("decode-0", pb.ConnectRequest(free=pb.Free()))
    await worker.wait_for("free")
    assert listener.heard[:3] == ["connected decode-0", "lost decode-0", "connected decode-0"]
    assert not [command for command in worker.commands if command.HasField("decode")]
    assert "load_report decode-0" not in listener.heard
    assert "it has been silent for too long" in caplog.text


async def test_what_is_sent_on_hearing_of_a_connection_arrives(
    links: Links, listener: Listener, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(welcome: pb.Welcome) -> None:
        links.send(welcome.worker_id, pb.ConnectRequest(decode=pb.Decode()))

    monkeypatch.setattr(listener, "connected", greet)
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    assert len(await worker.wait_for("decode")) == 1


async def test_a_stream_may_be_cut_on_hearing_of_its_connection(
    links: Links, listener: Listener, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(welcome: pb.Welcome) -> None:
        links.cut(welcome.worker_id, "not now")

    monkeypatch.setattr(listener, "connected", refuse)
    worker = await fake_worker("decode-0")
    await links.place([at(worker)])
    await listener.wait_for("lost decode-0", 2)
    assert set(listener.heard) == {"lost decode-0"}
