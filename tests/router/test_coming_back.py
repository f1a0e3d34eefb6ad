"""A client that comes back gets what it lacks of its answer, from a router that knows the request or does not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio

from triptych.core.errors import AlreadyExists, Cancelled, InvalidArgument, TriptychError
from triptych.core.sampling import seed_of
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.stage.v1 import stage_pb2
from triptych.wire.status import error_from_rpc


@pytest_asyncio.fixture
async def raw(open_door: Any) -> AsyncIterator[Any]:
    """Opens a door, and a stub that says what it is told to: `door, ids, stream = await raw(...)`."""
    channels = []

    async def begin(**options: Any) -> Any:
        door = await open_door("decode-0", **options)
        channel = grpc.aio.insecure_channel(door.router.address)
        channels.append(channel)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def stream(received: list[int] | None = None, *, text: str = "Hi", **fields: Any) -> Any:
            sampling = sampling_pb2.SamplingParams(
                max_tokens=fields.pop("max_tokens", 4), **fields.pop("sampling", {})
            )
            request_id = fields.pop("request_id", "r")
            body = pb.GenerationInput(text=text, request_id=request_id, sampling=sampling, **fields)
            if received is not None:
                body.resume.CopyFrom(pb.Resume(received_token_ids=received))
            return stub.GenerateStream(pb.GenerateStreamRequest(input=body))

        return door, await door.client.tokenize("abcd"), stream

    yield begin
    for channel in channels:
        await channel.close()


async def refused(call: Any) -> TriptychError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return error_from_rpc(caught.value, address="here")


async def rest(call: Any) -> tuple[str, list[int], pb.GenerateStreamResponse]:
    """The text and the tokens that a call still brings, and its last message."""
    messages: list[pb.GenerateStreamResponse] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    tokens = [token_id for message in messages for token_id in message.token_ids]
    return "".join(message.text for message in messages), tokens, messages[-1]


def say(worker: Any, token_ids: Sequence[int], *, first: int, ends: bool = False) -> None:
    """The worker's next tokens for its only request."""
    [command] = [command for command in worker.commands if command.HasField("prefill")]
    reason = sampling_pb2.FINISH_REASON_LENGTH if ends else sampling_pb2.FINISH_REASON_UNSPECIFIED
    delta = stage_pb2.TokenDelta(key=command.prefill.key, token_ids=token_ids, first=first, finish_reason=reason)
    worker.say(stage_pb2.ConnectResponse(step_tokens=stage_pb2.StepTokens(deltas=[delta])))


@pytest.mark.parametrize("count", range(4))
async def test_a_new_router_goes_on_behind_the_last_token(raw: Any, count: int) -> None:
    door, ids, stream = await raw()
    text, tokens, last = await rest(stream(ids[:count]))
    assert (text, tokens) == ("abcd"[count:], list(ids[count:]))
    assert (last.finish_reason, last.usage.completion_tokens) == (sampling_pb2.FINISH_REASON_LENGTH, 4)
    [command] = await door.workers["decode-0"].wait_for("prefill")
    assert list(command.prefill.emitted_token_ids) == list(ids[:count])
    assert command.prefill.sampling.seed == seed_of("r")


async def test_whoever_has_the_whole_answer_is_told_how_it_ended(raw: Any) -> None:
    door, ids, stream = await raw()
    [end] = await door.client.tokenize("<|end|>")
    whole = [
        (stream(ids), "", sampling_pb2.FINISH_REASON_LENGTH, 4),
        (stream([ids[0], end]), "", sampling_pb2.FINISH_REASON_STOP, 2),
        (stream(ids[:2], sampling={"stop": [b"b"]}), "", sampling_pb2.FINISH_REASON_STOP, 2),
        (stream(ids[:1], sampling={"stop": [b"ax"]}, max_tokens=1), "a", sampling_pb2.FINISH_REASON_LENGTH, 1),
    ]
    for call, held_back, reason, count in whole:
        text, tokens, last = await rest(call)
        assert (text, tokens, last.finish_reason, last.usage.completion_tokens) == (held_back, [], reason, count)
    assert not [c for c in door.workers["decode-0"].commands if c.HasField("prefill")]
    assert (await door.client.status()).router.running_requests == 0


async def test_a_pool_that_is_not_known_yet_ends_an_answer_that_fills_it(raw: Any) -> None:
    door, ids, stream = await raw()
    worker = door.workers["decode-0"]
    await worker.stop()
    call = stream([ids[0]] * 30, max_tokens=None)  # the prompt has 2, and nobody says there is room for 32
    async with asyncio.timeout(60):
        while not (await door.client.status()).router.waiting_requests:
            pass
    worker.welcome.total_blocks = 2
    await worker.start()
    text, tokens, last = await rest(call)
    assert (text, tokens, last.finish_reason) == ("", [], sampling_pb2.FINISH_REASON_LENGTH)
    assert last.usage.completion_tokens == 30
    await worker.wait_for("free")


async def test_a_request_lingers_and_its_client_comes_back(raw: Any) -> None:
    door, ids, stream = await raw(patient=True, max_running=1)
    worker = door.workers["decode-0"]
    first = stream(linger_ms=30_000)
    assert (await first.read()).text == "a"
    first.cancel()
    say(worker, ids[1:3], first=1)
    second = stream(ids[:1], linger_ms=30_000)  # although every place is taken: by this very request
    message = await second.read()
    text = message.text if message.text == "bc" else message.text + (await second.read()).text
    assert text == "bc"
    third = stream([], linger_ms=30_000)  # the second connection broke, and the router has not noticed
    assert (await third.read()).text == "abc"
    assert isinstance(await refused(second), Cancelled)
    say(worker, ids[3:], first=3, ends=True)
    assert (await rest(third))[0] == "d"
    assert len(await worker.wait_for("prefill")) == 1
    router = (await door.client.status()).router
    assert (router.finished_requests, router.cancelled_requests, router.resumed_requests) == (1, 0, 2)


async def test_an_answer_that_ended_meanwhile_is_kept_for_its_client(raw: Any) -> None:
    door, ids, stream = await raw(patient=True)
    worker = door.workers["decode-0"]
    first = stream(linger_ms=30_000)
    await first.read()
    first.cancel()
    say(worker, ids[1:], first=1, ends=True)
    await worker.wait_for("free")
    assert (await door.client.status()).router.running_requests == 1
    text, tokens, last = await rest(stream(ids[:1], linger_ms=30_000))
    assert (text, tokens, last.usage.completion_tokens) == ("bcd", list(ids[1:]), 4)
    assert len(await worker.wait_for("prefill")) == 1
    assert (await door.client.status()).router.running_requests == 0


async def test_without_linger_a_client_that_leaves_ends_its_request(raw: Any) -> None:
    door, ids, stream = await raw(patient=True)
    first = stream()
    await first.read()
    first.cancel()
    await door.workers["decode-0"].wait_for("free")
    assert (await stream(ids[:2]).read()).text == "c"
    prefills = await door.workers["decode-0"].wait_for("prefill", 2)
    assert list(prefills[1].prefill.emitted_token_ids) == list(ids[:2])


async def test_another_question_under_the_same_id_is_refused(raw: Any) -> None:
    _, ids, stream = await raw(patient=True)
    first = stream()
    await first.read()
    for call in (stream(ids[:1], text="Ho"), stream(ids[:1], sampling={"seed": 5}), stream(ids[:1], max_tokens=5)):
        error = await refused(call)
        assert isinstance(error, AlreadyExists)
        assert error.field == "request_id"
    error = await refused(stream(ids[1:2]))
    assert isinstance(error, InvalidArgument)
    assert error.field == "resume.received_token_ids"
    first.cancel()


@pytest.mark.parametrize(
    ("received", "fields", "field", "message"),
    [
        ([1] * 5, {}, "resume.received_token_ids", "at most 4 ids, which is sampling.max_tokens; got 5"),
        ([1] * 65, {"max_tokens": 60}, "resume.received_token_ids", "at most 64 ids, which is the context; got 65"),
        ([1, 257], {}, "resume.received_token_ids[1]", "must be in [0, 256], got 257"),
        ([1], {"request_id": ""}, "request_id", "resume needs the request_id"),
        ([], {"request_id": "", "sampling": {"seed": 5}}, "request_id", "resume needs the request_id"),
        (None, {"linger_ms": 60_001}, "linger_ms", "for at most 60 s (router.max_linger_seconds), got 60.001 s"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    raw: Any, received: list[int] | None, fields: dict[str, Any], field: str, message: str
) -> None:
    _, _, stream = await raw()
    error = await refused(stream(received, **fields))
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    assert message in error.message
