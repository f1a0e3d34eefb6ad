"""One request, several answers: n requests of the core behind one call, begun, counted and ended together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio

from triptych.core.errors import Cancelled, Internal, InvalidArgument, NotFound, ResourceExhausted, TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Demand
from triptych.core.prompt import Prompt
from triptych.core.sampling import SamplingParams, choice_seed, seed_of
from triptych.core.usage import Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router.answers import Answers
from triptych.router.call import Admitted, Call
from triptych.stage.v1 import stage_pb2
from triptych.wire.status import error_from_rpc


@pytest_asyncio.fixture
async def raw(open_door: Any) -> AsyncIterator[Any]:
    """Opens a door, and asks as it is told to: `door, ask = await raw("decode-0", ...)`."""
    channels = []

    async def begin(*workers: str, **options: Any) -> Any:
        door = await open_door(*workers, **options)
        channel = grpc.aio.insecure_channel(door.router.address)
        channels.append(channel)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def ask(n: int, received: Sequence[Sequence[int]] | None = None, **fields: Any) -> Any:
            sampling = sampling_pb2.SamplingParams(max_tokens=4, n=n)
            body = pb.GenerationInput(text="Hi", request_id="r", sampling=sampling, **fields)
            if received is not None:
                others = [pb.TokenIds(ids=ids) for ids in received[1:]]
                body.resume.CopyFrom(pb.Resume(received_token_ids=received[0], other_choices=others))
            return stub.GenerateStream(pb.GenerateStreamRequest(input=body))

        return door, ask

    yield begin
    for channel in channels:
        await channel.close()


async def read(call: Any) -> list[pb.GenerateStreamResponse]:
    messages: list[pb.GenerateStreamResponse] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def refused(call: Any) -> TriptychError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    return error_from_rpc(caught.value, address="here")


def texts(messages: Sequence[pb.GenerateStreamResponse], n: int) -> list[str]:
    return ["".join(m.text for m in messages if m.index == index) for index in range(n)]


def prefills(worker: Any) -> dict[str, Any]:
    """What the worker was asked to compute, by request id."""
    found = (command.prefill for command in worker.commands if command.HasField("prefill"))
    return {prefill.key.request_id: prefill for prefill in found}


def say(worker: Any, request_id: str, token_ids: Sequence[int], *, first: int, ends: bool = False) -> None:
    reason = sampling_pb2.FINISH_REASON_LENGTH if ends else sampling_pb2.FINISH_REASON_UNSPECIFIED
    key = prefills(worker)[request_id].key
    delta = stage_pb2.TokenDelta(key=key, token_ids=token_ids, first=first, finish_reason=reason)
    worker.say(stage_pb2.ConnectResponse(step_tokens=stage_pb2.StepTokens(deltas=[delta])))


async def until_each_has_begun(call: Any, n: int) -> None:
    """Reads until every answer has said something."""
    seen: set[int] = set()
    while len(seen) < n:
        seen.add((await call.read()).index)


async def test_each_answer_is_a_request_with_random_numbers_of_its_own(raw: Any) -> None:
    door, ask = await raw("decode-0")
    messages = await read(ask(3))
    assert texts(messages, 3) == ["abcd"] * 3
    assert sorted(m.index for m in messages if m.finish_reason) == [0, 1, 2]
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]
    usage = messages[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 12), "the prompt counts once"
    assert {m.request_id for m in messages} == {"r"}
    found = prefills(door.workers["decode-0"])
    assert list(found) == ["r", "r#1", "r#2"]
    assert [p.sampling.seed for p in found.values()] == [choice_seed(seed_of("r"), index) for index in range(3)]
    assert found["r"].sampling.seed == seed_of("r"), "answer 0 is the only answer's"


async def test_several_answers_come_whole_too(raw: Any) -> None:
    door, _ = await raw("decode-0")
    whole = await door.client.generate("Hi", max_tokens=2, n=3, logprobs=None)
    assert [(c.index, c.text, c.finish_reason) for c in whole.choices] == [(i, "ab", "length") for i in range(3)]
    assert whole.usage.completion_tokens == 6
    assert all(choice.timeline for choice in whole.choices)
    await door.workers["decode-0"].wait_for("free", 3)


async def test_the_others_begin_behind_the_first_token_on_the_worker_that_has_the_prompt(raw: Any) -> None:
    door, ask = await raw("decode-0", "decode-1", patient=True)
    asked = ask(4)
    await until_each_has_begun(asked, 4)
    busy = [worker for worker in door.workers.values() if prefills(worker)]
    assert [list(prefills(worker)) for worker in busy] == [["r", "r#1", "r#2", "r#3"]]
    asked.cancel()


async def test_admission_counts_every_answer(raw: Any) -> None:
    door, ask = await raw("decode-0", max_running=3, patient=True)
    error = await refused(ask(4))
    assert isinstance(error, ResourceExhausted)
    assert error.retry_after is None, "so many can never run"
    asked = ask(2)
    await until_each_has_begun(asked, 2)
    assert (await door.client.status()).router.running_requests == 2
    with pytest.raises(ResourceExhausted, match=r"2 requests are running, and this one has 2; 3 is") as caught:
        await door.client.generate("Hi", n=2, reconnect=0)
    assert caught.value.retry_after is not None
    one = door.client.stream("Hi")
    assert (await anext(one)).text == "a"
    one.cancel()
    asked.cancel()
    await door.workers["decode-0"].wait_for("free", 3)


@pytest.mark.parametrize("how", ["operator", "client"])
async def test_whoever_ends_the_request_ends_every_answer(raw: Any, how: str) -> None:
    door, ask = await raw("decode-0", patient=True)
    asked = ask(3)
    await until_each_has_begun(asked, 3)
    if how == "operator":
        await door.client.cancel("r")
        error = await refused(asked)
        assert isinstance(error, Cancelled)
        assert error.request_id == "r"
    else:
        asked.cancel()
    freed = await door.workers["decode-0"].wait_for("free", 3)
    assert {command.free.key.request_id for command in freed} == {"r", "r#1", "r#2"}
    with pytest.raises(NotFound):
        await door.client.cancel("r")


async def test_an_answer_that_fails_ends_the_others(raw: Any) -> None:
    door, ask = await raw("decode-0", patient=True)
    asked = ask(2)
    await until_each_has_begun(asked, 2)
    worker = door.workers["decode-0"]
    failed = stage_pb2.Failed(
        key=prefills(worker)["r#1"].key, code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="no"
    )
    worker.say(stage_pb2.ConnectResponse(failed=failed))
    error = await refused(asked)
    assert isinstance(error, InvalidArgument)
    assert (error.message, error.request_id) == ("no", "r")
    await worker.wait_for("free", 2)


async def test_where_the_first_answer_fails_the_others_are_never_begun(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, ask = await raw("decode-0")
    worker = door.workers["decode-0"]

    def fail(command: stage_pb2.ConnectRequest) -> list[stage_pb2.ConnectResponse]:
        if command.HasField("free"):
            return [stage_pb2.ConnectResponse(freed=stage_pb2.Freed(key=command.free.key))]
        code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        failed = stage_pb2.Failed(key=command.prefill.key, code=code, message="no")
        return [stage_pb2.ConnectResponse(failed=failed)] if command.HasField("prefill") else []

    monkeypatch.setattr(worker, "_answers", fail)
    assert (await refused(ask(3))).message == "no"
    await worker.wait_for("free")
    assert list(prefills(worker)) == ["r"]
    assert (await door.client.status()).router.running_requests == 0


async def test_a_client_that_comes_back_goes_on_with_every_answer(raw: Any) -> None:
    door, ask = await raw("decode-0", patient=True)
    a, b, c, d = await door.client.tokenize("abcd")
    asked = ask(2, linger_ms=10_000)
    await until_each_has_begun(asked, 2)
    worker = door.workers["decode-0"]
    say(worker, "r#1", [b], first=1)
    assert (await asked.read()).text == "b"
    asked.cancel()
    back = ask(2, [[a], [a, b]], linger_ms=10_000)
    say(worker, "r", [b, c, d], first=1, ends=True)
    say(worker, "r#1", [c, d], first=2, ends=True)
    messages = await asyncio.wait_for(read(back), 60)
    assert texts(messages, 2) == ["bcd", "cd"]
    assert messages[-1].usage.completion_tokens == 8
    assert list(prefills(worker)) == ["r", "r#1"], "nothing was asked for again"
    await worker.wait_for("free", 2)


async def test_a_new_router_goes_on_behind_the_last_token_of_each(raw: Any) -> None:
    door, ask = await raw("decode-0")
    ids = list(await door.client.tokenize("abcd"))
    messages = await read(ask(3, [ids[:2], ids]))
    assert texts(messages, 3) == ["cd", "", "abcd"]
    assert messages[-1].usage.completion_tokens == 12
    found = prefills(door.workers["decode-0"])
    emitted = {name: list(prefill.emitted_token_ids) for name, prefill in found.items()}
    assert emitted == {"r": ids[:2], "r#2": []}, "answer 1 was complete"
    assert found["r#2"].sampling.seed == choice_seed(seed_of("r"), 2)


async def test_what_a_client_cannot_have_is_refused_by_name(raw: Any) -> None:
    _, ask = await raw("decode-0")
    for n, received, field in (
        (2, [[], [], []], "resume.other_choices"),
        (1, [[], [1]], "resume.other_choices"),
        (2, [[], [9999]], "resume.other_choices[0].ids[0]"),
        (3, [[], [], [1] * 5], "resume.other_choices[1].ids"),
        (129, None, "sampling.n"),
    ):
        error = await refused(ask(n, received))
        assert isinstance(error, InvalidArgument)
        assert error.field == field


async def test_an_id_that_is_taken_ends_what_had_begun(raw: Any) -> None:
    door, ask = await raw("decode-0", patient=True)
    stranger = door.client.stream("Hi", request_id="r#1")
    assert (await anext(stranger)).text == "a"
    error = await refused(ask(2))
    assert "a request with id 'r#1' is running" in error.message
    worker = door.workers["decode-0"]
    [freed] = await worker.wait_for("free")
    assert freed.free.key.request_id == "r"
    assert not isinstance(error, Internal)
    stranger.cancel()
    await worker.wait_for("free", 2)


class Letters:
    """Every token is a letter."""

    def open_stream(self, hidden: frozenset[int] | None = None) -> "Letters":
        return self

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class Calls:
    """Stands in for a dispatcher: calls, and what the test has them say."""

    def __init__(self) -> None:
        self.begun: list[Call] = []

    def submit(self, request: Admitted, detokenizer: IncrementalDetokenizer, now: float) -> Call:
        self.begun.append(Call(request.request_id, detokenizer))
        return self.begun[-1]

    def leave(self, call: Call, error: TriptychError | None) -> None:
        pass


async def test_what_a_slow_client_has_not_taken_comes_in_few_parts() -> None:
    calls: Any = Calls()
    plain = Admitted("r", Prompt((1,)), (), SamplingParams(seed=1, max_tokens=200), Demand(1), received=())
    answers = Answers(calls, [(plain, IncrementalDetokenizer(Letters(), ())) for _ in range(2)], 0.0)
    answers.begin()
    parts = answers.parts()
    waiting = asyncio.ensure_future(anext(parts))
    for letter in "ab" * 50:
        for call in calls.begun:
            call.deliver([GeneratedToken(ord(letter))])
        for _ in range(3):
            await asyncio.sleep(0)
    for call in calls.begun:
        call.finish(FinishReason.LENGTH, Usage(1, 100), ())
    seen = [await waiting] + [part async for part in parts]
    for choice in range(2):
        pieces = [part.output for part in seen if part.choice == choice]
        assert "".join(piece.text for piece in pieces) == "ab" * 50
        assert len(pieces) <= 6, "the first ones, those that came meanwhile, and the end"
    answers.leave(None)
