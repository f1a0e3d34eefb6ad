"""A connection that breaks costs a pause and nothing else: no token is missing, none comes twice."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from triptych.client import (
    AlreadyExists,
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    Generation,
    Internal,
    InvalidArgument,
    TextChunk,
    Unavailable,
)
from triptych.client.assembly import Assembly
from triptych.client.testing import Break, Fail, FakeServer, Hold, Restart, Say, Step
from triptych.core.inputs import GenerationInput
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import sampling_pb2

ANSWER = [Say("Hel"), Say(""), Say("lö"), Say(" w"), Say("orld")]
TEXTS = [step.text for step in ANSWER]
OPTIONS = {"request_id": "r", "logprobs": 0}
Ask = Callable[[str, list[TextChunk]], Generation]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.client.recovery.FIRST_WAIT", 0.002)


@pytest.fixture
def undisturbed() -> Iterator[Generation]:
    with FakeServer(*ANSWER) as server, Client(server.address) as client:
        yield client.generate("Hi", **OPTIONS)  # type: ignore[arg-type]


def ask(address: str, chunks: list[TextChunk]) -> Generation:
    with Client(address) as client, client.stream("Hi", **OPTIONS) as stream:  # type: ignore[arg-type]
        chunks.extend(stream)
        return stream.result()


def ask_async(address: str, chunks: list[TextChunk]) -> Generation:
    async def run() -> Generation:
        async with AsyncClient(address) as client, client.stream("Hi", **OPTIONS) as stream:  # type: ignore[arg-type]
            chunks.extend([chunk async for chunk in stream])
            return await stream.result()

    return asyncio.run(run())


def resumed(requests: list[GenerationInput]) -> list[tuple[int, ...] | None]:
    return [request.resume for request in requests]


@pytest.mark.parametrize("place", range(len(ANSWER) + 1))
@pytest.mark.parametrize("loss", [Break(), Break(refusals=2), Restart()], ids=["break", "refusals", "restart"])
@pytest.mark.parametrize("ask", [ask, ask_async])
def test_a_break_anywhere_leaves_the_answer_what_it_is(
    ask: Ask, loss: Step, place: int, undisturbed: Generation
) -> None:
    chunks: list[TextChunk] = []
    with FakeServer(*ANSWER[:place], loss, *ANSWER[place:]) as server:
        assert ask(server.address, chunks) == undisturbed
        first, *others = resumed(server.requests)
    assert first is None
    assert None not in others, "every further connection says what was received"
    assert [chunk.text for chunk in chunks if chunk.token_ids] == TEXTS
    assert [token_id for chunk in chunks for token_id in chunk.token_ids] == list(range(len(ANSWER)))
    if isinstance(loss, Break):
        assert others == [tuple(range(place))] * (loss.refusals + 1)


@pytest.mark.parametrize("ask", [ask, ask_async])
def test_an_answer_that_breaks_after_every_token_arrives_whole(ask: Ask, undisturbed: Generation) -> None:
    chunks: list[TextChunk] = []
    script = [step for say in ANSWER for step in (Break(), Break(refusals=1), say)]
    with FakeServer(*script, Break(), Restart()) as server:
        assert ask(server.address, chunks) == undisturbed
    assert [chunk.text for chunk in chunks if chunk.token_ids] == TEXTS


@pytest.mark.parametrize("loss", [Break(), Break(refusals=3), Restart(refusals=1)])
async def test_a_whole_answer_is_asked_for_again(loss: Step, undisturbed: Generation) -> None:
    with FakeServer(*ANSWER[:2], loss, *ANSWER[2:]) as server:
        with Client(server.address) as client:
            assert await asyncio.to_thread(lambda: client.generate("Hi", **OPTIONS)) == undisturbed  # type: ignore[arg-type]
        async with AsyncClient(server.address) as other:
            assert (await other.generate("Hi", logprobs=0)).text == undisturbed.text
        assert set(resumed(server.requests)) == {None, ()}
        assert resumed(server.requests).count(None) == 2


def test_many_streams_outlive_a_restart() -> None:
    with FakeServer(*ANSWER[:3], Restart(), *ANSWER[3:]) as server, Client(server.address) as client:
        streams = [client.stream("Hi") for _ in range(8)]
        assert [stream.result().text for stream in streams] == ["".join(TEXTS)] * 8


def test_a_server_that_restarts_by_itself_is_found_again() -> None:
    with FakeServer(*ANSWER[:2], Hold()) as server, Client(server.address) as client:
        stream = client.stream("Hi")
        assert [next(stream).text for _ in range(2)] == TEXTS[:2]
        assert server.wait_until_asked()
        server.restart()
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(next, stream)
            assert server.wait_until_asked()
            assert server.requests[-1].resume == (0, 1)
            stream.cancel()
        assert isinstance(reading.exception(), Cancelled)


@pytest.mark.parametrize("reconnect", [0, 0.0])
def test_without_patience_the_first_break_is_the_end(reconnect: float) -> None:
    with FakeServer(Say("Hel"), Break(), Say("lo")) as server, Client(server.address, reconnect=reconnect) as client:
        with pytest.raises(Unavailable):
            client.generate("Hi")
        stream = client.stream("Hi")
        next(stream)
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                next(stream)
            assert caught.value.request_id == stream.request_id
        assert client.stream("Hi", reconnect=5).result().text == "Hello"


async def test_without_patience_the_first_break_is_the_end_for_asyncio_too() -> None:
    with FakeServer(Say("Hel"), Break(), Say("lo")) as server:
        async with AsyncClient(server.address, reconnect=0) as client:
            with pytest.raises(Unavailable):
                await client.generate("Hi")
            stream = client.stream("Hi")
            await anext(stream)
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await anext(stream)
            assert (await client.stream("Hi", reconnect=5).result()).text == "Hello"


def test_patience_ends_with_the_last_error() -> None:
    with FakeServer(Say("Hel"), Break(refusals=10**6)) as server, Client(server.address, reconnect=0.05) as client:
        stream = client.stream("Hi")
        next(stream)
        with pytest.raises(Unavailable, match="no worker is ready"):
            next(stream)


def test_a_server_that_was_never_there_is_an_error_at_once() -> None:
    with FakeServer() as server:
        address = server.address
    with Client(address) as client:
        for call in (client.generate, lambda prompt: client.stream(prompt).result()):
            with pytest.raises(Unavailable, match=address) as caught:
                call("Hi")
            assert caught.value.request_id == ""


def test_a_refusal_at_first_contact_is_an_error_at_once() -> None:
    with FakeServer(Fail(Unavailable("no worker is ready", retry_after=0.01))) as server:
        with Client(server.address) as client, pytest.raises(Unavailable, match="no worker is ready"):
            client.stream("Hi").result()
        assert len(server.requests) == 1


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> "Iterator[FakeServer]":
    """Says "Hel", breaks, and has clients wait for a minute before they ask again."""
    monkeypatch.setattr("triptych.client.recovery.FIRST_WAIT", 60.0)
    monkeypatch.setattr("triptych.client.recovery.LONGEST_WAIT", 60.0)
    with FakeServer(Say("Hel"), Break(), Say("lo")) as server:
        yield server


@pytest.fixture
def lost() -> Iterator[threading.Event]:
    """Set when a client notices that its connection is lost."""
    noticed = threading.Event()

    class Noticing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noticed.set()

    handler = Noticing()
    logging.getLogger("triptych.client").addHandler(handler)
    yield noticed
    logging.getLogger("triptych.client").removeHandler(handler)


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_leaving_ends_the_wait(waiting: FakeServer, leave: str, lost: threading.Event) -> None:
    with Client(waiting.address) as client:
        stream = client.stream("Hi", request_id="r")
        next(stream)
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(next, stream)
            assert lost.wait(60)
            stream.cancel() if leave == "cancel" else client.close()
        error = reading.exception()
        assert isinstance(error, Cancelled)
        assert error.request_id == "r"
        with pytest.raises(Cancelled):
            next(stream)


@pytest.mark.parametrize("leave", ["cancel", "close", "task"])
async def test_leaving_ends_the_wait_for_asyncio_too(waiting: FakeServer, leave: str, lost: threading.Event) -> None:
    async with AsyncClient(waiting.address) as client:
        stream = client.stream("Hi", request_id="r")
        await anext(stream)
        reading = asyncio.create_task(anext(stream))
        assert await asyncio.to_thread(lost.wait, 60)
        match leave:
            case "cancel":
                stream.cancel()
            case "close":
                await client.close()
            case _:
                reading.cancel()
        with pytest.raises(asyncio.CancelledError if leave == "task" else Cancelled):
            await reading
        with pytest.raises(Cancelled):
            await anext(stream)


async def test_the_deadline_counts_over_all_connections(waiting: FakeServer) -> None:
    with Client(waiting.address, timeout=0.1) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            client.stream("Hi", request_id="r").result()
        assert caught.value.request_id == "r"
        with pytest.raises(DeadlineExceeded):
            client.generate("Hi")
    async with AsyncClient(waiting.address, timeout=0.1) as other:
        with pytest.raises(DeadlineExceeded):
            await other.stream("Hi").result()
        with pytest.raises(DeadlineExceeded):
            await other.generate("Hi")


def test_a_loss_is_logged_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "triptych.client")
    with FakeServer(Say("Hel"), Break(refusals=3), Say("lo")) as server, Client(server.address) as client:
        client.stream("Hi").result()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"{server.address} cannot be reached or went away" in caplog.messages[0]
    assert "trying again for 60 s" in caplog.messages[0]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_request_that_lingers_is_ended_by_leaving_it(kind: type) -> None:
    async def leave_async(address: str) -> None:
        async with AsyncClient(address) as client:
            stream = client.stream("Hi", linger=30)
            await anext(stream)
            stream.cancel()
            assert await asyncio.to_thread(server.wait_until_cancelled)

    with FakeServer(Say("Hel"), Hold()) as server:
        if kind is AsyncClient:
            asyncio.run(leave_async(server.address))
            return
        with Client(server.address) as client, client.stream("Hi", linger=30) as stream:
            next(stream)
            stream.cancel()
            assert server.wait_until_cancelled()


def test_the_fake_server_minds_who_comes_back() -> None:
    with FakeServer(Say("Hel"), Break(), Say("lo")) as server:
        with Client(server.address, reconnect=0) as client:
            with pytest.raises(Unavailable):
                client.generate("Hi", request_id="r")
            with pytest.raises(AlreadyExists, match="'r' is running"):
                client.generate("Hi", request_id="r")
            server.restart()
            assert client.generate("Hi", request_id="r").text == "Hello"
        assert resumed(server.requests) == [None, None, None]


def test_the_fake_server_minds_what_a_client_says_it_has() -> None:
    with FakeServer(Say("Hel"), Break(), Say("lo")) as server, Client(server.address) as client:
        stream = client.stream("Hi")
        next(stream)
        stream._assembly.add(pb.GenerateStreamResponse(token_ids=[7]))
        with pytest.raises(InvalidArgument, match="not the tokens"):
            next(stream)


@pytest.mark.parametrize("end", [Break(), Restart()])
def test_every_answer_of_several_goes_on_from_its_own_tokens(end: Step) -> None:
    script = [*ANSWER[:3], end, *ANSWER[3:]]
    with (
        FakeServer(*script) as server,
        Client(server.address) as client,
        client.stream("Hi", n=3, request_id="r") as stream,
    ):
        chunks = list(stream)
        generation = stream.result()
    assert [choice.text for choice in generation.choices] == ["".join(TEXTS)] * 3
    assert [choice.token_ids for choice in generation.choices] == [(0, 1, 2, 3, 4)] * 3
    assert [chunk.index for chunk in chunks if chunk.finish_reason] == [0, 1, 2]
    again = server.requests[-1]
    assert (again.resume, again.resume_others) == ((0, 1, 2), ((0, 1, 2), (0, 1, 2)))


def test_an_answer_that_has_ended_is_not_told_to_its_end_twice() -> None:
    assembly = Assembly("r", 2)
    assert assembly.add(pb.GenerateStreamResponse(text="a", token_ids=[1])) == TextChunk("a", (1,))
    assert assembly.add(pb.GenerateStreamResponse(text="b", finish_reason=sampling_pb2.FINISH_REASON_LENGTH))
    assert assembly.add(pb.GenerateStreamResponse(text="b", finish_reason=sampling_pb2.FINISH_REASON_LENGTH)) is None
    assert not assembly.complete
    assert assembly.received == ((1,), ())
    last = pb.GenerateStreamResponse(index=1, finish_reason=sampling_pb2.FINISH_REASON_STOP, usage=pb.Usage())
    assert assembly.add(last)
    assert assembly.complete
    assert [choice.text for choice in assembly.result().choices] == ["ab", ""]
    with pytest.raises(Internal, match="answer 2"):
        assembly.add(pb.GenerateStreamResponse(index=2))
