import asyncio
import gc
import inspect
import threading

import pytest

from triptych.client import (
    AsyncClient,
    AsyncTextStream,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    FinishReason,
    NotFound,
    ResourceExhausted,
    TextStream,
    Unavailable,
    user_message,
)
from triptych.client.testing import Fail, FakeServer, Say
from triptych.core.inputs import ChatInput


async def test_both_clients_give_the_same_results(server: FakeServer, client: Client) -> None:
    async with AsyncClient(server.address) as twin:
        assert await twin.generate("Hi", request_id="a") == client.generate("Hi", request_id="a")
        assert await twin.chat("Hi", images=[b"x"], request_id="a") == client.chat(
            "Hi", images=[b"x"], request_id="a"
        )
        assert await twin.tokenize("Hi") == client.tokenize("Hi")
        assert await twin.detokenize([72]) == client.detokenize([72])
        assert await twin.models() == client.models()
        assert await twin.status() == client.status()
        async with twin.stream("Hi", request_id="a") as stream:
            assert stream.request_id == "a"
            assert [chunk async for chunk in stream] == list(client.stream("Hi", request_id="a"))
            assert await stream.result() == client.generate("Hi", request_id="a")


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (TextStream, AsyncTextStream)])
def test_both_clients_have_the_same_methods(one: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    assert methods(one) == methods(other)


async def test_leaving_the_block_cancels(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address) as client, client.stream("Hi") as stream:
        assert (await anext(stream)).text == "Hel"
    assert await asyncio.to_thread(held_server.wait_until_abandoned)


async def test_cancel_ends_the_stream_with_an_error(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address) as client:
        stream = client.stream("Hi", request_id="r1")
        await anext(stream)
        waiting = asyncio.create_task(stream.result())
        await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(Cancelled) as caught:
            await waiting
        assert caught.value.request_id == "r1"
        with pytest.raises(Cancelled):
            await anext(stream)
    assert await asyncio.to_thread(held_server.wait_until_abandoned)


async def test_dropping_a_stream_cancels(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address) as client:
        stream = client.stream("Hi")
        await anext(stream)
        del stream
        gc.collect()
        assert await asyncio.to_thread(held_server.wait_until_abandoned)


@pytest.mark.parametrize("streaming", [True, False])
async def test_cancelling_the_task_cancels_the_request(held_server: FakeServer, streaming: bool) -> None:
    async with AsyncClient(held_server.address) as client:
        stream = client.stream("Hi") if streaming else None
        if stream:
            await anext(stream)
        task = asyncio.create_task(stream.result() if stream else client.generate("Hi"))
        assert await asyncio.to_thread(held_server.wait_until_asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(held_server.wait_until_abandoned)


@pytest.mark.parametrize("streaming", [True, False])
async def test_closing_the_client_cancels(held_server: FakeServer, streaming: bool) -> None:
    client = AsyncClient(held_server.address)
    task = asyncio.create_task(client.stream("Hi").result() if streaming else client.generate("Hi"))
    assert await asyncio.to_thread(held_server.wait_until_asked)
    await client.close()
    with pytest.raises(Cancelled):
        await task
    assert await asyncio.to_thread(held_server.wait_until_abandoned)
    with pytest.raises(FailedPrecondition, match="closed"):
        await client.models()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.stream("Hi")


async def test_an_operator_can_cancel(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address) as client:
        stream = client.stream("Hi", request_id="r1")
        await anext(stream)
        await client.cancel("r1")
        with pytest.raises(Cancelled):
            await anext(stream)
        with pytest.raises(NotFound):
            await client.cancel("r1")


async def test_a_deadline_passes(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate("Hi")
        with pytest.raises(DeadlineExceeded):
            await client.stream("Hi").result()


async def test_an_error_arrives_as_it_was_raised() -> None:
    error = ResourceExhausted("the queue is full", retry_after=0.25)
    with FakeServer(Say("Hel"), Fail(error)) as server:
        async with AsyncClient(server.address, reconnect=0) as client:
            with pytest.raises(ResourceExhausted, match="the queue is full") as caught:
                await client.stream("Hi", request_id="r1").result()
    assert (caught.value.retry_after, caught.value.request_id) == (0.25, "r1")


async def test_a_message_of_65_megabytes_names_the_limit(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        huge = user_message("?", images=[b"x" * (65 * 2**20)])
        with pytest.raises(ResourceExhausted, match=r"\(64 MiB\)"):
            await client.generate([huge])
        with pytest.raises(ResourceExhausted, match=r"\(64 MiB\)"):
            await client.stream([huge]).result()


async def test_a_server_that_goes_is_unavailable(held_server: FakeServer) -> None:
    async with AsyncClient(held_server.address, reconnect=0) as client:
        stream = client.stream("Hi")
        await anext(stream)
        stopping = threading.Thread(target=held_server.stop)
        stopping.start()
        with pytest.raises(Unavailable, match=held_server.address):
            await anext(stream)
        await asyncio.to_thread(stopping.join)
        with pytest.raises(Unavailable, match=held_server.address):
            await client.generate("Hi")


def test_a_client_may_be_made_before_the_loop_runs(server: FakeServer) -> None:
    client = AsyncClient(server.address)

    async def use() -> FinishReason:
        async with client:
            return (await client.generate("Hi")).finish_reason

    assert asyncio.run(use()) is FinishReason.STOP


async def test_several_answers_and_tools(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        whole = await client.chat([user_message("x")], n=2, tools=[{"name": "f"}])
        async with client.stream("x", n=2) as stream:
            indices = [chunk.index async for chunk in stream]
            streamed = await stream.result()
        assert await client.tokenize([user_message("x")], tools=[{}]) == (120,)
    assert [choice.text for choice in whole.choices] == [choice.text for choice in streamed.choices]
    assert indices == [0, 1, 0, 1, 0, 1]
    prompt = server.requests[0].prompt
    assert isinstance(prompt, ChatInput)
    assert prompt.options.tools == ('{"name": "f"}',)
