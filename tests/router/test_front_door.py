"""The listening router with fake workers: health, reflection, refusals, and the small services."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from triptych.client import ClusterStatus, WorkerStatus
from triptych.core.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PromptTooLong,
    ResourceExhausted,
    Unavailable,
)
from triptych.core.fleet import Stage
from triptych.core.generation import FinishReason
from triptych.core.inputs import GenerationInput, TextInput, TokenInput
from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage, TextPart
from triptych.core.sampling import SamplingParams
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router.fleet import WorkerAddress
from triptych.router.intake import INLINE_LENGTH
from triptych.router.server import Router
from triptych.stage.v1 import stage_pb2

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("triptych.inference.v1.InferenceService", "triptych.admin.v1.AdminService")


async def test_an_answer_comes_whole_or_piece_by_piece(open_door: Any) -> None:
    door = await open_door("decode-0")
    whole = await door.client.generate("Hi", max_tokens=4, request_id="mine")
    assert (whole.text, whole.finish_reason, whole.request_id, whole.model) == ("abcd", "length", "mine", "fake")
    async with door.client.stream("Hi", max_tokens=4) as stream:
        pieces = [chunk async for chunk in stream]
    assert "".join(piece.text for piece in pieces) == "abcd"
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [FinishReason.LENGTH]
    assert len({await _drawn_id(door) for _ in range(3)}) == 3


async def _drawn_id(door: Any) -> str:
    generation = await door.client.generate("Hi", max_tokens=1)
    assert generation.request_id
    return str(generation.request_id)


async def test_health_follows_the_workers(open_door: Any, fake_worker: Any) -> None:
    door = await open_door()
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def status(service: str = "") -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

        assert [await status(name) for name in ("", *SERVICES)] == [NOT_SERVING] * 3
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        door.workers |= {name: await fake_worker(name) for name in ("decode-0", "encode-0")}
        await door.place()
        assert (await watch.read()).status == SERVING
        assert [await status(name) for name in ("", *SERVICES)] == [SERVING] * 3
        await door.workers["encode-0"].stop()
        assert (await watch.read()).status == NOT_SERVING
        await door.workers["encode-0"].start()
        assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status("no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


async def test_workers_that_are_added_or_cannot_start_do_not_close_the_door(open_door: Any, fake_worker: Any) -> None:
    door = await open_door("decode-0")
    decode = WorkerAddress("decode-0", Stage.DECODE, door.workers["decode-0"].address)
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for restarts in (0, 2):
            await door.router.place((decode, WorkerAddress("prefill-0", Stage.PREFILL, "", restarts=restarts)))
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
            assert not (await door.client.status()).ready
        await asyncio.wait_for(door.router.wait_ready(), 60)


async def test_a_router_that_takes_over_waits_for_nobody_whom_others_can_stand_in_for(
    open_door: Any, fake_worker: Any
) -> None:
    for take_over, expected in ((False, NOT_SERVING), (True, SERVING)):
        door = await open_door()
        workers = [await fake_worker("decode-0"), await fake_worker("decode-1", mute=True)]
        if take_over:
            door.router.take_over()
        await door.router.place(WorkerAddress(w.worker_id, Stage.DECODE, w.address) for w in workers)
        async with asyncio.timeout(60):
            while (await door.client.status()).workers[0].health != "healthy":
                pass
        assert (await door.client.generate("Hi", max_tokens=1)).text == "a"
        async with grpc.aio.insecure_channel(door.router.address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == expected
        if take_over:
            await asyncio.wait_for(door.router.wait_ready(), 60)


async def test_reflection_lists_the_services_and_describes_them(open_door: Any) -> None:
    door = await open_door()
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        names = {service.name for service in (await call.read()).list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}

    def describe() -> set[str]:
        with grpc.insecure_channel(door.router.address) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            return {method.name for method in pool.FindServiceByName(SERVICES[0]).methods}

    methods = await asyncio.to_thread(describe)
    assert methods == {"Generate", "GenerateStream", "Tokenize", "Detokenize", "Embed", "ListModels"}


async def test_a_taken_port_is_named(open_door: Any, parts: Any) -> None:
    door = await open_door()
    taken = door.router.address
    second = Router(taken, *parts)
    with pytest.raises(FailedPrecondition, match=f"cannot listen on {taken}") as caught:
        await second.start()
    assert caught.value.field == "router.grpc"
    await second.stop(0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        third = Router(address, *parts)
        with pytest.raises(FailedPrecondition, match=address):
            await third.start()
        await third.stop(0)


async def test_more_requests_than_allowed_are_told_when_to_come_back(open_door: Any) -> None:
    door = await open_door("decode-0", max_running=2, patient=True)
    streams = [door.client.stream("Hi", request_id=f"r{n}") for n in range(2)]
    for stream in streams:
        await anext(stream)
    with pytest.raises(ResourceExhausted, match="2 requests are running, which is the limit") as caught:
        await door.client.generate("Hi")
    assert caught.value.retry_after == pytest.approx(1.0)
    streams[0].cancel()
    await door.workers["decode-0"].wait_for("free")
    async with door.client.stream("Hi", request_id="after") as stream:
        assert (await anext(stream)).text == "a"
    streams[1].cancel()
    assert (await door.client.status()).router.refused_requests == 1


async def test_a_full_router_spends_nothing_on_a_refusal(open_door: Any) -> None:
    """What is wrong with a request is not even looked at."""
    door = await open_door("decode-0", max_running=1, patient=True)
    async with door.client.stream("Hi") as stream:
        await anext(stream)
        with pytest.raises(ResourceExhausted, match="1 requests are running"):
            await door.client.generate("far too long" * 10)
    await door.workers["decode-0"].wait_for("free")
    with pytest.raises(PromptTooLong):
        await door.client.generate("far too long" * 10)
    assert (await door.client.status()).router.running_requests == 0


async def test_a_full_worker_refuses(open_door: Any) -> None:
    door = await open_door("decode-0", per_worker=1, patient=True)
    async with door.client.stream("Hi") as stream:
        await anext(stream)
        with pytest.raises(ResourceExhausted, match="every decode worker has 1 requests") as caught:
            await door.client.generate("Hi")
        assert caught.value.retry_after


async def test_an_id_is_taken_while_its_request_runs(open_door: Any) -> None:
    door = await open_door("decode-0", patient=True)
    async with door.client.stream("Hi", request_id="mine") as stream:
        await anext(stream)
        with pytest.raises(AlreadyExists, match="'mine'") as caught:
            await door.client.generate("Hi", request_id="mine")
        assert caught.value.field == "request_id"
    await door.workers["decode-0"].wait_for("free")
    async with door.client.stream("Hi", request_id="mine") as stream:
        assert (await anext(stream)).text == "a"


async def test_an_operator_cancels_a_request_by_its_id(open_door: Any) -> None:
    door = await open_door("decode-0", patient=True)
    with pytest.raises(NotFound, match="no running request has the id 'nobody'") as caught:
        await door.client.cancel("nobody")
    assert (caught.value.field, caught.value.request_id) == ("request_id", "nobody")
    stream = door.client.stream("Hi", request_id="mine")
    await anext(stream)
    await door.client.cancel("mine")
    with pytest.raises(Cancelled, match="by an operator"):
        await stream.result()
    await door.workers["decode-0"].wait_for("free")
    with pytest.raises(NotFound):
        await door.client.cancel("mine")


async def test_a_client_that_leaves_frees_its_worker_once(open_door: Any) -> None:
    door = await open_door("decode-0", patient=True)
    worker = door.workers["decode-0"]
    async with door.client.stream("Hi") as stream:
        await anext(stream)
    await worker.wait_for("free")
    task = asyncio.create_task(door.client.generate("Hi"))
    await worker.wait_for("prefill", 2)
    task.cancel()
    [first, second] = await worker.wait_for("free", 2)
    assert second.free.key.epoch == (first.free.key.epoch + 256) % 2**32
    router = (await door.client.status()).router
    assert (router.running_requests, router.cancelled_requests) == (0, 2)


async def test_two_routers_do_not_count_from_the_same_epoch(open_door: Any) -> None:
    epochs = []
    for _ in range(2):
        door = await open_door("decode-0")
        await door.client.generate("Hi", max_tokens=1, request_id="mine")
        [command] = await door.workers["decode-0"].wait_for("prefill")
        epochs.append(command.prefill.key.epoch)
    assert epochs[0] != epochs[1]


async def test_a_deadline_ends_the_request_and_travels_to_the_worker(open_door: Any) -> None:
    door = await open_door("decode-0", patient=True)
    with pytest.raises(DeadlineExceeded):
        await door.client.generate("Hi", timeout=3.0)  # the worker is asked before it is over
    worker = door.workers["decode-0"]
    await worker.wait_for("free")
    [command] = await worker.wait_for("prefill")
    assert 0 < command.prefill.timeout_ms <= 3100  # gRPC rounds up
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(_request())
        await call.read()
    assert (await worker.wait_for("prefill", 2))[1].prefill.timeout_ms == 0


def _request() -> pb.GenerateStreamRequest:
    return pb.GenerateStreamRequest(input=pb.GenerationInput(text="Hi"))


async def test_a_lost_worker_is_unavailable_and_comes_back(open_door: Any) -> None:
    door = await open_door("decode-0", patient=True)
    stream = door.client.stream("Hi", reconnect=0)
    await anext(stream)
    await door.workers["decode-0"].stop()
    with pytest.raises(Unavailable, match="worker decode-0 was lost"):
        await stream.result()
    with pytest.raises(Unavailable, match="no worker is ready") as caught:
        await door.client.generate("Hi")
    assert caught.value.retry_after
    await door.workers["decode-0"].start()
    await asyncio.wait_for(door.router.wait_ready(), 60)
    assert (await door.client.generate("Hi", max_tokens=1)).text == "a"


async def test_a_worker_with_an_unknown_role_is_not_taken(
    open_door: Any, fake_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    door = await open_door("decode-0")
    stranger = await fake_worker("prefill-0")
    stranger.welcome.role = 99
    door.workers["prefill-0"] = stranger
    await door.router.place(
        [WorkerAddress(w.worker_id, Stage(w.worker_id.partition("-")[0]), w.address) for w in door.workers.values()]
    )
    await stranger.wait_for_streams(2)
    assert "worker prefill-0 has the unknown role 99" in caplog.text
    assert (await door.client.generate("Hi", max_tokens=1)).text == "a"
    status = await door.client.status()
    assert [(w.worker_id, w.health) for w in status.workers] == [("decode-0", "healthy"), ("prefill-0", "lost")]
    stranger.welcome.role = stage_pb2.STAGE_PREFILL
    await asyncio.wait_for(door.router.wait_ready(), 60)


async def test_texts_and_chats_are_tokenized_and_back(open_door: Any) -> None:
    client = (await open_door()).client
    text = "Größe 你好 🙂"
    assert await client.detokenize(await client.tokenize(text)) == text
    assert await client.detokenize(await client.tokenize([ChatMessage("user", (TextPart("Hi"),))])) == "user: Hi\n"
    long = "word " * 3000
    with pytest.raises(PromptTooLong, match="characters"):
        await client.tokenize(long * 10)
    with pytest.raises(InvalidArgument, match="got 999") as caught:
        await client.detokenize([3, 999])
    assert caught.value.field == "token_ids[1]"
    for call in (client.tokenize("a", model="other"), client.detokenize([3], model="other")):
        with pytest.raises(NotFound, match="'other' is not served here; 'fake' is") as caught:
            await call
        assert caught.value.field == "model"


async def test_more_ids_than_a_context_holds_are_refused_uncopied(open_door: Any) -> None:
    client = (await open_door()).client
    with pytest.raises(PromptTooLong, match="holds 64 tokens; the prompt has 1000000") as too_long:
        await client.generate([300] * 1_000_000)  # 300 is no token of the model: nobody looked
    assert too_long.value.field == "prompt"
    with pytest.raises(InvalidArgument, match="at most 64 ids, which is the context; got 65") as caught:
        await client.detokenize([3] * 65)
    assert caught.value.field == "token_ids"


async def test_what_is_long_is_worked_on_aside_with_the_same_result(make_intake: Any) -> None:
    intake = make_intake(context_length=3 * INLINE_LENGTH)
    text = "ab" * INLINE_LENGTH
    ids = (await intake.tokenize(TextInput(text))).token_ids
    assert len(ids) == len(text)
    assert (await intake.tokenize(TokenInput(ids))).token_ids == ids
    assert await intake.detokenize(ids, len(ids)) == text
    intake.close()


async def test_text_that_a_client_has_is_gone_over_aside(make_intake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    prime = IncrementalDetokenizer.prime

    def noted(self: IncrementalDetokenizer, token_ids: Any) -> None:
        threads.append(threading.current_thread().name)
        prime(self, token_ids)

    monkeypatch.setattr(IncrementalDetokenizer, "prime", noted)
    intake = make_intake(context_length=3 * INLINE_LENGTH)
    [known] = (await intake.tokenize(TextInput("a"))).token_ids
    for count in (INLINE_LENGTH, INLINE_LENGTH + 1):
        sampling = SamplingParams(max_tokens=count + 1, stop=("ab",))
        request = GenerationInput(TextInput("Hi"), sampling, request_id="r", resume=(known,) * count)
        admitted, detokenizer = await intake.admit(request, 3 * INLINE_LENGTH, None)
        assert (len(admitted.received), admitted.ended) == (count, None)
        assert detokenizer.push([known]) == "a"  # the held back one; the new one may begin a stop text, too
    assert [name.startswith("intake") for name in threads] == [False, True]
    intake.close()


async def test_the_smallest_kv_cache_bounds_the_context(open_door: Any, fake_worker: Any) -> None:
    door = await open_door()
    assert (await door.client.models())[0].context_length == 64
    blocks = {"encode-0": 0, "prefill-0": 3, "decode-0": 2}
    door.workers |= {name: await fake_worker(name, blocks=count) for name, count in blocks.items()}
    await door.place()
    assert (await door.client.models())[0].context_length == 32
    options = {"placement": Placement.COLOCATED}
    assert (await door.client.generate("x" * 31, **options)).usage.completion_tokens == 1
    with pytest.raises(PromptTooLong, match="holds 32 tokens; the prompt has 32"):
        await door.client.generate("x" * 32, **options)
    with pytest.raises(PromptTooLong, match="holds 32 tokens; the prompt has 2 and max_tokens is 31") as caught:
        await door.client.generate("xx", max_tokens=31, **options)
    assert caught.value.field == "sampling.max_tokens"


async def test_the_served_model_is_listed(open_door: Any) -> None:
    [model] = await (await open_door()).client.models()
    assert (model.name, model.context_length, model.accepts_images, model.vocabulary_size) == ("fake", 64, False, 257)


async def test_status_shows_each_worker_with_its_last_report(open_door: Any) -> None:
    door = await open_door("encode-0", "prefill-0", "decode-0")
    report = stage_pb2.LoadReport(held_blocks=3, running_requests=1, resident_bytes=5)
    door.workers["decode-0"].say(stage_pb2.ConnectResponse(load_report=report))
    status = await _status_when(door, lambda worker: worker.load.held_blocks == 3)
    assert (status.model, status.layout, status.ready) == ("fake", "1E1P1D", True)
    assert [(w.worker_id, w.health, w.incarnation) for w in status.workers] == [
        (name, "healthy", "1") for name in ("encode-0", "prefill-0", "decode-0")
    ]
    assert status.workers[2].load.running_requests == 1
    await door.workers["decode-0"].stop()
    assert not (await _status_when(door, lambda worker: worker.health == "lost")).ready


async def _status_when(door: Any, true_of_decode: Callable[[WorkerStatus], bool]) -> ClusterStatus:
    async with asyncio.timeout(60):
        while True:
            status: ClusterStatus = await door.client.status()
            if true_of_decode(status.workers[2]):
                return status


async def test_a_defect_in_a_handler_is_internal_and_shows_no_traceback(
    open_door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = await open_door("decode-0")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(door.router.dispatcher, "submit", fail)
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(_request()).read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "the router failed; its log says how"
