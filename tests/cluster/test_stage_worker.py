"""One worker behind its StageService, spoken to in the wire's own words."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.brakes import Brake
from triptych.core.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from triptych.core.fleet import Stage
from triptych.core.stream import Numbering
from triptych.inference.v1 import sampling_pb2
from triptych.models.resolve import resolve
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages.host import StageHost
from triptych.stages.settings import StageSettings

TOKENS = list(range(10, 30))


class Stream:
    """One router's stream to a worker."""

    def __init__(self, address: str, router_id: str) -> None:
        self.router_id = router_id
        self.welcome = pb.Welcome()
        self.tokens: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.messages = 0
        self.widest = 0
        self._numbering = Numbering()
        self._channel = grpc.aio.insecure_channel(address)
        self._call = stage_pb2_grpc.StageServiceStub(self._channel).Connect()

    async def open(self) -> pb.Welcome:
        await self.send(hello=pb.Hello(router_id=self.router_id))
        answer = await self._call.read()
        assert isinstance(answer, pb.ConnectResponse)
        self.welcome = answer.welcome
        return answer.welcome

    def skip_number(self) -> None:
        self._numbering.next()

    async def send(self, **command: Any) -> None:
        await self._call.write(pb.ConnectRequest(number=self._numbering.next(), **command))

    async def prefill(self, request_id: str, count: int = 5, **fields: Any) -> None:
        sampling = sampling_pb2.SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        command = {"token_ids": TOKENS, "sampling": sampling} | fields
        await self.send(prefill=pb.Prefill(key=key(request_id), **command))

    async def reserve(self, request_id: str, length: int = 20) -> None:
        sampling = sampling_pb2.SamplingParams(temperature=0.0, max_tokens=5)
        tokens = [10] * length
        await self.send(reserve=pb.Reserve(key=key(request_id), prompt_token_ids=tokens, sampling=sampling))

    async def free(self, request_id: str) -> None:
        await self.send(free=pb.Free(key=key(request_id)))

    async def until(self, kind: str, request_id: str = "") -> Any:
        """The next event of a kind (about a request); tokens are counted on the way, reports dropped."""
        async with asyncio.timeout(60):
            while True:
                event = await self._call.read()
                assert isinstance(event, pb.ConnectResponse), "the stream ended"
                name = event.WhichOneof("event") or ""
                found = getattr(event, name)
                if name == "step_tokens":
                    self._count(found)
                if name == kind and (not request_id or found.key.request_id == request_id):
                    return found

    async def until_finished(self, *request_ids: str) -> None:
        """Their last tokens may have been counted before."""
        while not self.finished >= set(request_ids):
            await self.until("step_tokens")

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()

    def _count(self, step: pb.StepTokens) -> None:
        self.messages += 1
        self.widest = max(self.widest, len(step.deltas))
        assert len({delta.key.request_id for delta in step.deltas}) == len(step.deltas)
        for delta in step.deltas:
            self.tokens.setdefault(delta.key.request_id, []).extend(delta.token_ids)
            if delta.finish_reason:
                self.finished.add(delta.key.request_id)


def key(request_id: str, epoch: int = 1) -> pb.OperationKey:
    return pb.OperationKey(request_id=request_id, epoch=epoch)


@pytest.fixture
def host(tiny_llama: Path) -> Any:
    """Starts a worker of 512 tokens of KV: `host(lease_seconds=6.0)`."""
    hosts: list[StageHost] = []

    def begin(**settings: Any) -> StageHost:
        files = resolve(str(tiny_llama))
        chosen = {"kv_cache_bytes": 1 << 20, "block_size": 4, "dtype": "float32"} | settings
        hosts.append(StageHost(StageSettings("decode-0", Stage.DECODE, files, **chosen)))
        hosts[-1].address = hosts[-1].start()  # type: ignore[attr-defined]
        return hosts[-1]

    yield begin
    for started in hosts:
        started.stop()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Opens streams: `await connect(host, "router")`."""
    async with AsyncExitStack() as stack:

        async def begin(host: Any, router_id: str = "router") -> Stream:
            stream = Stream(host.address, router_id)
            await stream.open()
            stack.push_async_callback(stream.close)
            return stream

        yield begin


async def until(condition: Callable[[], bool]) -> None:
    """Polls for what a thread of the worker is about to do."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def idle(host: Any) -> None:
    await until(lambda: not host.panel.report().running_requests and not host.panel.report().held_blocks)
    host.panel.decoding.stage.core.scheduler.check_integrity()


async def test_a_worker_introduces_itself(host: Any) -> None:
    worker = host()
    stream = Stream(worker.address, "router")
    welcome = await stream.open()
    assert (welcome.worker_id, welcome.role, welcome.block_size, welcome.total_blocks) == ("decode-0", 3, 4, 128)
    assert list(welcome.stages) == [pb.STAGE_PREFILL, pb.STAGE_DECODE]
    assert welcome.incarnation
    await stream.close()


async def test_a_stream_that_does_not_begin_with_hello_is_refused(host: Any) -> None:
    async with grpc.aio.insecure_channel(host().address) as channel:
        call = stage_pb2_grpc.StageServiceStub(channel).Connect()
        await call.write(pb.ConnectRequest(free=pb.Free(), number=1))
        with pytest.raises(grpc.aio.AioRpcError, match="Hello") as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_finished_answer_holds_its_blocks_until_free(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    await stream.prefill("r")
    first = await stream.until("prefill_done", "r")
    await stream.until_finished("r")
    assert len([*first.token.token_ids, *stream.tokens["r"]]) == 5
    held = worker.panel.decoding.stage.core.scheduler.pool.held_count
    assert held == -(-(len(TOKENS) + 5 - 1) // 4)
    await stream.free("r")
    await stream.until("freed", "r")
    await idle(worker)


async def test_repeated_commands_change_nothing(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    for _ in range(3):
        await stream.prefill("r")
    await stream.until_finished("r")
    for _ in range(3):
        await stream.free("r")
    for _ in range(3):
        await stream.until("freed", "r")
    await stream.free("never heard of")
    await stream.until("freed", "never heard of")
    assert worker.panel.decoding.stage.generated_tokens == 5
    await idle(worker)


async def test_tokens_of_eight_requests_travel_as_one_message_per_step(
    host: Any, connect: Any, oracle: Any, tiny_llama: Path, rng: np.random.Generator
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llama, lambda: rng.integers(10, 260, 20).tolist(), 1, 30)
    worker = host(max_batch_tokens=1024)
    stage = worker.panel.decoding.stage
    brake = Brake(stage.core)
    stream = await connect(worker)
    names = [f"r{n}" for n in range(8)]
    for name in names:
        await stream.prefill(name, 30, token_ids=prompt)
    await until(lambda: stage.jobs.operations == 8)
    brake.release()
    await stream.until_finished(*names)
    assert {name: len(tokens) for name, tokens in stream.tokens.items()} == dict.fromkeys(names, 29)
    assert stream.messages == stage.step_messages
    # Every step but those that only read prompts has a message, and no step has two.
    assert stage.core.steps - 8 <= stage.step_messages <= stage.core.steps - 1
    assert stream.widest == 8
    assert set(map(tuple, stream.tokens.values())) == {expected[1:]}


async def test_a_deadline_ends_the_work_and_keeps_the_blocks_until_free(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    await stream.prefill("r", 400, timeout_ms=30)
    failed = await stream.until("failed", "r")
    assert failed.code == DeadlineExceeded.code
    steps = worker.panel.decoding.stage.core.steps
    await stream.prefill("next", 3)
    await stream.until_finished("next")
    assert worker.panel.decoding.stage.core.steps <= steps + 4
    assert worker.panel.decoding.stage.core.scheduler.pool.held_count > 5
    for name in ("r", "next"):
        await stream.free(name)
        await stream.until("freed", name)
    await idle(worker)


async def test_a_prompt_larger_than_the_pool_is_refused_with_the_limit(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    for command in (stream.reserve("r", 512), stream.prefill("p", token_ids=[10] * 512)):
        await command
        failed = await stream.until("failed")
        assert (failed.code, failed.field) == (ResourceExhausted.code, "kv_cache.memory")
        assert "513 tokens do not fit the KV cache, which holds 512" in failed.message
        await stream.free(failed.key.request_id)
    await stream.until("freed", "p")
    await idle(worker)


async def test_an_answer_that_is_as_long_as_it_may_be_ends_at_once(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    sampling = sampling_pb2.SamplingParams(temperature=0.0, ignore_eos=True)
    room = 512 - len(TOKENS)
    reserve = pb.Reserve(key=key("r"), prompt_token_ids=TOKENS, emitted_token_ids=[10] * room, sampling=sampling)
    for name, answered, command in (
        ("as asked", 3, stream.prefill("as asked", 3, emitted_token_ids=[10] * 3)),
        ("pool", room, stream.prefill("pool", emitted_token_ids=[10] * room, sampling=sampling)),
        ("less", room + 9, stream.prefill("less", emitted_token_ids=[10] * (room + 9), sampling=sampling)),
        ("r", room, stream.send(reserve=reserve)),
    ):
        await command
        [end] = (await stream.until("step_tokens")).deltas
        assert (end.key.request_id, list(end.token_ids), end.first) == (name, [], answered)
        assert end.finish_reason == sampling_pb2.FINISH_REASON_LENGTH
        await stream.free(name)
        await stream.until("freed", name)
    await stream.prefill("one left", emitted_token_ids=[10] * (room - 1), sampling=sampling)
    done = await stream.until("prefill_done", "one left")
    assert (done.token.first, done.token.finish_reason) == (room - 1, sampling_pb2.FINISH_REASON_LENGTH)
    await stream.free("one left")
    await stream.until("freed", "one left")
    await idle(worker)


async def test_reservations_are_granted_in_their_order(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    for name, length in (("a", 300), ("b", 300), ("small", 4)):
        await stream.reserve(name, length)
    ticket = (await stream.until("reserved")).ticket
    assert (ticket.blocks, ticket.worker_id) == (75, "decode-0")
    await until(lambda: worker.panel.decoding.stage.jobs.waiting == 2)
    await stream.free("a")
    assert [(await stream.until("reserved")).key.request_id for _ in range(2)] == ["b", "small"]
    await stream.reserve("c", 300)
    await stream.free("c")
    await stream.until("freed", "c")
    for name in ("b", "small"):
        await stream.free(name)
        await stream.until("freed", name)
    await idle(worker)


async def test_routers_get_their_own_tokens_and_take_their_own_with_them(host: Any, connect: Any) -> None:
    worker = host(kv_cache_bytes=8 << 20)
    one, two = await connect(worker, "one"), await connect(worker, "two")
    await one.prefill("mine", 3000)
    await two.prefill("theirs", 200)
    await one.until("step_tokens")
    await two.until("step_tokens")
    await one.close()
    await two.until_finished("theirs")
    assert set(two.tokens) == {"theirs"}
    await until(lambda: worker.panel.report().running_requests == 1)
    await two.free("theirs")
    await two.until("freed", "theirs")
    await idle(worker)


async def test_a_command_that_cannot_be_read_fails_by_itself(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    await stream.prefill("bad", sampling=sampling_pb2.SamplingParams(temperature=-1.0))
    failed = await stream.until("failed", "bad")
    assert (failed.code, failed.field) == (InvalidArgument.code, "sampling.temperature")
    await stream.free("bad")
    await stream.until("freed", "bad")
    await stream.prefill("good")
    await stream.until_finished("good")
    await stream.free("good")
    await stream.until("freed", "good")
    await idle(worker)


async def test_kv_for_a_ticket_that_nobody_gave_fails_its_prefill(host: Any, connect: Any) -> None:
    sender, receiver = host(), host()
    stream, other = await connect(sender), await connect(receiver)
    await other.reserve("r")
    ticket = (await other.until("reserved")).ticket
    ticket.ticket_id = "forged"
    await stream.prefill("r", ticket=ticket)
    failed = await stream.until("failed", "r")
    assert failed.code == Unavailable.code
    assert "unknown or closed" in failed.message
    await stream.free("r")
    await stream.until("freed", "r")
    await idle(sender)


async def test_a_reservation_lives_as_long_as_its_router_beats(host: Any, connect: Any) -> None:
    worker = host(lease_seconds=6.0)
    beating, silent = await connect(worker, "beating"), await connect(worker, "silent")
    await beating.reserve("kept")
    await beating.until("reserved", "kept")
    await silent.reserve("lost")
    await silent.until("reserved", "lost")

    async def beat() -> None:
        while True:
            await beating.send(heartbeat=pb.Heartbeat())
            await asyncio.sleep(0.1)

    beats = asyncio.create_task(beat())
    failed = await silent.until("failed", "lost")
    assert failed.code == Unavailable.code
    assert "was not renewed" in failed.message
    await silent.free("lost")
    await silent.until("freed", "lost")
    beats.cancel()
    await until(lambda: worker.panel.report().running_requests == 1)
    await beating.free("kept")
    await beating.until("freed", "kept")
    await idle(worker)


async def test_a_draining_worker_takes_no_new_operation_and_ends_what_it_has(host: Any, connect: Any) -> None:
    worker = host()
    stream = await connect(worker)
    await stream.prefill("old", 200)
    await stream.reserve("waiting")
    await stream.until("reserved", "waiting")
    async with grpc.aio.insecure_channel(worker.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        await stream.send(drain=pb.Drain())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
    while not (await stream.until("load_report")).draining:
        pass
    await stream.prefill("old", 200)  # a repetition is not new
    for command in (stream.prefill("new"), stream.reserve("newer")):
        await command
        failed = await stream.until("failed")
        assert (failed.code, failed.message) == (Unavailable.code, "worker decode-0 is draining")
    await stream.until_finished("old")
    assert len(stream.tokens["old"]) == 199
    for name in ("old", "waiting", "new", "newer"):
        await stream.free(name)
        await stream.until("freed", name)
    await idle(worker)
    assert worker.panel.report().draining


async def test_a_draining_worker_still_receives_for_the_tickets_it_gave(host: Any, connect: Any) -> None:
    sender, receiver = host(), host()
    stream, other = await connect(sender), await connect(receiver)
    await other.reserve("r")
    ticket = (await other.until("reserved", "r")).ticket
    await other.send(drain=pb.Drain())
    await stream.prefill("r", token_ids=[10] * 20, ticket=ticket)
    first = (await stream.until("prefill_done", "r")).token
    await other.send(decode=pb.Decode(key=key("r"), emitted_token_ids=first.token_ids))
    await other.until("kv_ready", "r")
    await other.until_finished("r")
    for end in (stream, other):
        await end.free("r")
        await end.until("freed", "r")
    await idle(sender)
    await idle(receiver)


async def test_a_session_that_ends_takes_everything_with_it_and_the_next_one_is_empty(
    host: Any, connect: Any
) -> None:
    worker = host(kv_cache_bytes=8 << 20)
    old = await connect(worker)
    await old.prefill("running", 3000)
    await old.reserve("reserved")
    await old.until("reserved")
    await old.until("step_tokens")
    await old.send(heartbeat=pb.Heartbeat())
    old.skip_number()
    await old.send(heartbeat=pb.Heartbeat())
    await idle(worker)
    again = await connect(worker)
    assert again.welcome.incarnation == old.welcome.incarnation
    await again.prefill("running", 3)
    await again.until_finished("running")
    assert len(again.tokens["running"]) == 2
    await again.free("running")
    await again.until("freed", "running")
    await idle(worker)


async def test_a_worker_without_a_router_ends_in_the_end(host: Any) -> None:
    assert host(orphan_seconds=0.2).ended.result(timeout=60) == "no router for 0.2 seconds"
