"""What the dispatcher sends for what workers say: the whole way of a request, and every way off it."""

import asyncio
from typing import Any

import pytest

from triptych.core.errors import (
    AlreadyExists,
    Cancelled,
    DataLoss,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from triptych.core.generation import FinishReason
from triptych.core.plan import Placement, RoutingPolicy
from triptych.inference.v1.sampling_pb2 import FINISH_REASON_LENGTH
from triptych.router.call import Finished, Piece
from triptych.router.fleet import introduction
from triptych.stage.v1 import stage_pb2 as pb


async def outcome(call: Any) -> tuple[str, Finished]:
    """The text and the end of a call that has ended."""
    text = ""
    async with asyncio.timeout(5):
        async for output in call.outputs():
            match output:
                case Piece(piece):
                    text += piece
                case Finished():
                    return text, output
    raise AssertionError


async def test_an_image_request_passes_encode_prefill_and_decode(desk: Any) -> None:
    d = desk()
    call = d.submit(images=3)
    assert d.sent == [("encode-0", "encode"), ("encode-1", "encode")]
    d.encoded(call, "encode-1", 1)
    assert len(d.sent) == 2
    d.encoded(call, "encode-0", 0, 2)
    assert d.sent[2:] == [("decode-0", "reserve")]
    d.reserved(call, "the ticket")
    assert d.sent[3:] == [("prefill-0", "prefill")]
    d.prefilled(call, "prefill-0", "a")
    d.kv_arrived(call)
    assert d.sent[4:] == [("decode-0", "decode"), ("prefill-0", "free")]
    d.decoded(call, "b")
    d.decoded(call, "c", FinishReason.LENGTH)
    assert d.frees() == ["decode-0", "encode-0", "encode-1", "prefill-0"]
    text, end = await outcome(call)
    assert (text, end.reason, end.usage.completion_tokens) == ("abc", FinishReason.LENGTH, 3)
    assert (end.usage.prompt_tokens, end.usage.image_tokens) == (15, 12)


def test_commands_carry_what_the_next_worker_needs(desk: Any) -> None:
    d = desk()
    call = d.submit(images=2, deadline=104.5)
    assert d.last["encode"].encode.timeout_ms == 4500
    assert [image.data for image in d.last["encode"].encode.images] == [b"picture 1"]
    d.encoded(call, "encode-1", 1)
    d.encoded(call, "encode-0", 0)
    reserve = d.last["reserve"].reserve
    assert [(span.start, span.handle.worker_id) for span in reserve.media] == [(0, "encode-0"), (4, "encode-1")]
    d.now += 1.5
    d.reserved(call, "the ticket")
    prefill = d.last["prefill"].prefill
    assert (prefill.ticket.ticket_id, prefill.timeout_ms) == ("the ticket", 3000)
    assert list(prefill.token_ids) == list(reserve.prompt_token_ids) == list(range(1, 12))
    assert [span.handle.content_hash for span in prefill.media] == ["hash 0", "hash 1"]
    assert (prefill.sampling.seed, prefill.sampling.max_tokens) == (1, 9)
    d.prefilled(call, "prefill-0", "a")
    assert list(d.last["decode"].decode.emitted_token_ids) == [ord("a")]


def test_pictures_are_held_to_the_end_because_another_attempt_needs_them(desk: Any) -> None:
    d = desk()
    call = d.submit(images=2)
    assert d.last["encode"].encode.images[0].data == b"picture 1"
    assert d.dispatcher.seats.pictures.held == len(b"picture 0") + len(b"picture 1")
    d.dispatcher.leave(call, Cancelled("gone"))
    d.freed(call, "encode-0", "encode-1")
    assert d.dispatcher.seats.pictures.held == 0
    with pytest.raises(ResourceExhausted, match=r"router\.picture_memory"), d.dispatcher.seat(2**31):
        pass


def test_kv_that_arrives_before_the_first_token(desk: Any) -> None:
    d = desk()
    call = d.submit()
    d.reserved(call)
    d.kv_arrived(call)
    assert d.frees() == []
    d.prefilled(call, "prefill-0")
    assert d.sent[-2:] == [("decode-0", "decode"), ("prefill-0", "free")]


def test_a_colocated_request_has_one_holder(desk: Any) -> None:
    d = desk()
    call = d.submit(placement=Placement.COLOCATED)
    d.prefilled(call, "decode-0", "a")
    d.decoded(call, "b", FinishReason.STOP)
    assert d.sent == [("decode-0", "prefill"), ("decode-0", "free")]
    assert not d.last["prefill"].prefill.HasField("ticket")


@pytest.mark.parametrize("stage", range(5))
def test_every_holder_gets_exactly_one_free(desk: Any, stage: int) -> None:
    """Wherever a request is when it is given up: who was sent a command is sent one Free, and nobody else is."""
    d = desk()
    call = d.submit(images=1)
    steps = [
        lambda: d.encoded(call, "encode-0", 0),
        lambda: d.reserved(call),
        lambda: d.prefilled(call, "prefill-0"),
        lambda: d.kv_arrived(call),
    ]
    for step in steps[:stage]:
        step()
    d.dispatcher.leave(call, Cancelled("enough"))
    d.dispatcher.leave(call, Cancelled("twice"))
    holders = sorted({worker for worker, kind in d.sent if kind != "free"})
    assert d.frees() == holders
    assert (d.dispatcher.running, d.dispatcher.awaiting_free) == (0, 1)
    for step in steps[stage:]:
        step()
    assert d.frees() == holders
    d.freed(call, *holders)
    d.freed(call, *holders)
    assert d.dispatcher.awaiting_free == 0
    assert not any(worker.load.requests for worker in d.dispatcher.workers.values())


def test_events_of_an_older_attempt_are_ignored(desk: Any) -> None:
    d = desk()
    first = d.submit("same id")
    d.dispatcher.leave(first, Cancelled("by its client"))
    call = d.submit("same id")
    d.hear(first, "decode-0", reserved=pb.Reserved(ticket=pb.Ticket(ticket_id="old")))
    d.hear(first, "decode-0", failed=pb.Failed(code=13, message="old"))
    d.hear(call, "decode-0", age=-1, failed=pb.Failed(code=13, message="not yet"))
    assert d.sent[-1] == ("decode-0", "reserve")
    assert d.dispatcher.running == 1
    d.freed(first, "decode-0")
    d.reserved(call, "new")
    assert d.last["prefill"].prefill.ticket.ticket_id == "new"


def test_epochs_start_where_told_and_wrap_around_before_the_wire_does(desk: Any) -> None:
    d = desk(first_serial=2**24 - 1)
    calls = [d.submit("one"), d.submit("two")]
    assert [d.entries[call].record.key.epoch for call in calls] == [2**32 - 256, 0]
    assert d.last["reserve"].reserve.key == pb.OperationKey(request_id="two", epoch=0)


async def test_a_stop_text_ends_the_request_although_the_worker_goes_on(desk: Any) -> None:
    d = desk()
    call = d.submit()
    d.reserved(call)
    d.prefilled(call, "prefill-0", "x")
    d.decoded(call, "yst")
    assert d.frees() == []
    d.decoded(call, "opzz")
    assert d.frees() == ["decode-0", "prefill-0"]
    d.decoded(call, "more")
    text, end = await outcome(call)
    assert (text, end.reason) == ("xy", FinishReason.STOP)
    assert end.usage.completion_tokens == len("xystop")
    assert d.dispatcher.counters.finished == 1


async def test_a_failed_stage_ends_the_request_with_its_error(desk: Any) -> None:
    d = desk()
    call = d.submit("the id")
    d.reserved(call)
    d.hear(call, "decode-0", failed=pb.Failed(code=DataLoss.code, message="damaged", field="kv"))
    with pytest.raises(DataLoss, match="damaged") as caught:
        await outcome(call)
    assert (caught.value.field, caught.value.request_id) == ("kv", "the id")
    assert d.frees() == ["decode-0", "prefill-0"]
    assert d.dispatcher.counters.failed == 1


async def test_a_lost_worker_ends_what_it_held_and_is_sent_no_free(desk: Any) -> None:
    d = desk()
    call, other = d.submit("held"), d.submit("colocated", placement=Placement.COLOCATED)
    d.reserved(call)
    d.dispatcher.lose("prefill-0")
    with pytest.raises(Unavailable, match="prefill-0 was lost") as caught:
        await outcome(call)
    assert caught.value.retry_after
    assert d.frees() == ["decode-0"]
    assert other.request_id == "colocated"
    assert d.dispatcher.running == 1


@pytest.mark.parametrize(("images", "lost"), [(1, "prefill-0"), (1, "decode-0"), (0, "prefill-0")])
async def test_a_worker_lost_before_its_turn_ends_the_request_too(desk: Any, images: int, lost: str) -> None:
    """Its command would be sent to nobody, and the request would wait for ever."""
    d = desk()
    call = d.submit(images=images)
    d.dispatcher.lose(lost)
    with pytest.raises(Unavailable, match=f"{lost} was lost"):
        await outcome(call)
    assert d.frees() == ["encode-0" if images else "decode-0"]


def test_a_prefill_worker_lost_after_its_kv_arrived_is_not_missed(desk: Any) -> None:
    d = desk()
    call = d.submit()
    d.reserved(call)
    d.prefilled(call, "prefill-0")
    d.kv_arrived(call)
    d.dispatcher.lose("prefill-0")
    d.decoded(call, "b", FinishReason.STOP)
    d.freed(call, "decode-0")
    assert d.dispatcher.counters.finished == 1
    assert d.dispatcher.awaiting_free == 0


def test_a_running_id_is_refused_and_an_ended_one_is_not(desk: Any) -> None:
    d = desk()
    call = d.submit("mine")
    with pytest.raises(AlreadyExists, match="'mine'") as caught:
        d.submit("mine")
    assert caught.value.field == "request_id"
    d.dispatcher.leave(call, Cancelled("gone"))
    assert d.dispatcher.awaiting_free == 1
    d.submit("mine")


def test_a_full_router_refuses_and_says_when_to_come_back(desk: Any) -> None:
    d = desk(max_running=2)
    first = d.submit("one")
    d.submit("two")
    with pytest.raises(ResourceExhausted, match="2 requests are running") as caught:
        d.submit("three")
    assert caught.value.retry_after == RoutingPolicy().retry_after
    assert len(d.sent) == 2
    d.dispatcher.cancel("one")
    assert d.entries[first].record.closed is False
    d.submit("three")
    assert d.dispatcher.counters.refused == 1


def test_requests_that_are_being_checked_take_their_places(desk: Any) -> None:
    d = desk(max_running=2)
    d.submit("one")
    with d.dispatcher.seat():
        with pytest.raises(ResourceExhausted, match="2 requests are running") as caught, d.dispatcher.seat():
            pass
        assert caught.value.retry_after == RoutingPolicy().retry_after
    with pytest.raises(ZeroDivisionError), d.dispatcher.seat():
        raise ZeroDivisionError("the check failed")
    d.submit("two")
    assert (d.dispatcher.running, d.dispatcher.counters.refused) == (2, 1)


async def test_a_message_that_makes_no_sense_ends_its_own_request_only(desk: Any) -> None:
    d = desk()
    calls = [d.submit(name, placement=Placement.COLOCATED) for name in ("bad", "good")]
    for call in calls:
        d.prefilled(call, "decode-0", "a")
    deltas = [
        pb.TokenDelta(token_ids=[98], first=1),
        pb.TokenDelta(token_ids=[98], first=1, finish_reason=FINISH_REASON_LENGTH),
    ]
    for call, delta in zip(calls, deltas, strict=True):
        key = d.entries[call].record.key
        delta.key.request_id, delta.key.epoch = key.request_id, key.epoch
    deltas[0].logprobs.add().logprob = -1.0
    deltas[0].logprobs.add().logprob = -2.0
    d.dispatcher.receive("decode-0", "1", pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=deltas)))
    with pytest.raises(Internal, match="the router failed; its log says how") as caught:
        await outcome(calls[0])
    assert caught.value.request_id == "bad"
    assert (await outcome(calls[1]))[0] == "ab"
    assert d.frees() == ["decode-0", "decode-0"]
    assert (d.dispatcher.running, d.dispatcher.counters.failed, d.dispatcher.counters.finished) == (0, 1, 1)


async def test_a_command_that_cannot_be_sent_ends_its_request_and_frees_the_others(desk: Any) -> None:
    d = desk(max_running=1)
    send = d.send

    def refuse_encode_1(worker_id: str, command: pb.ConnectRequest) -> None:
        if worker_id == "encode-1" and command.HasField("encode"):
            raise ValueError("too large")
        send(worker_id, command)

    d.send = refuse_encode_1
    call = d.submit(images=2)
    with pytest.raises(Internal):
        await outcome(call)
    assert d.sent == [("encode-0", "encode"), ("encode-0", "free"), ("encode-1", "free")]
    assert d.dispatcher.running == 0
    d.freed(call, "encode-0", "encode-1")
    assert d.dispatcher.awaiting_free == 0
    d.submit()


async def test_a_token_that_is_none_or_an_end_that_cannot_be_told_is_a_defect(desk: Any) -> None:
    d = desk()
    call = d.submit("one", placement=Placement.COLOCATED)
    d.hear(call, "decode-0", prefill_done=pb.PrefillDone(token=pb.TokenDelta(token_ids=[-1])))
    with pytest.raises(Internal):
        await outcome(call)
    call = d.submit("two", placement=Placement.COLOCATED)
    call.detokenizer.finish = None
    d.prefilled(call, "decode-0", "a", FinishReason.LENGTH)
    with pytest.raises(Internal):
        await outcome(call)
    assert d.frees() == ["decode-0", "decode-0"]
    assert d.dispatcher.running == 0


def test_a_full_worker_refuses_before_anything_is_sent(desk: Any) -> None:
    d = desk(policy=RoutingPolicy(max_requests_per_worker=1))
    d.submit("one")
    with pytest.raises(ResourceExhausted, match="every decode worker has 1 requests"):
        d.submit("two")
    assert (len(d.sent), d.dispatcher.running) == (1, 1)


def test_no_worker_is_unavailable(desk: Any) -> None:
    d = desk(workers=())
    with pytest.raises(Unavailable):
        d.submit()
    assert (d.dispatcher.running, d.dispatcher.awaiting_free, d.dispatcher.counters.refused) == (0, 0, 1)


def test_a_worker_that_says_it_is_being_drained_is_sent_nothing(desk: Any) -> None:
    d = desk(workers=("decode-0",))
    said = pb.Welcome(worker_id="decode-1", incarnation="1", role=pb.STAGE_DECODE, stages=[pb.STAGE_DECODE])
    said.draining = True
    d.dispatcher.connect(introduction(said))
    for request_id in ("one", "two"):
        d.submit(request_id, placement=Placement.COLOCATED)
    assert {worker_id for worker_id, _ in d.sent} == {"decode-0"}


def test_only_running_requests_can_be_cancelled(desk: Any) -> None:
    d = desk()
    d.submit("mine")
    d.dispatcher.cancel("mine")
    assert d.dispatcher.counters.cancelled == 1
    for request_id in ("mine", "other"):
        with pytest.raises(NotFound, match=repr(request_id)) as caught:
            d.dispatcher.cancel(request_id)
        assert caught.value.field == "request_id"


def test_counters_add_up(desk: Any) -> None:
    d = desk()
    calls = [d.submit(f"r{i}", placement=Placement.COLOCATED) for i in range(4)]
    for call in calls:
        d.prefilled(call, "decode-0", "a")
    d.decoded(calls[0], "bc", FinishReason.LENGTH)
    d.hear(calls[1], "decode-0", failed=pb.Failed(code=13, message="no"))
    d.dispatcher.cancel("r2")
    counters = d.dispatcher.counters
    assert (counters.finished, counters.failed, counters.cancelled, counters.generated_tokens) == (1, 1, 1, 6)
    assert (d.dispatcher.running, d.dispatcher.awaiting_free) == (1, 3)


def test_load_is_counted_from_dispatch_to_the_end(desk: Any) -> None:
    d = desk()

    def loads() -> dict[str, tuple[int, int, int]]:
        workers = d.dispatcher.workers.values()
        return {w.worker_id: (w.load.requests, w.load.tokens, w.load.patches) for w in workers if w.load.requests}

    call = d.submit(images=2)
    everything = {"encode-0": (1, 0, 4), "encode-1": (1, 0, 4), "prefill-0": (1, 11, 0), "decode-0": (1, 0, 0)}
    assert loads() == everything
    d.encoded(call, "encode-0", 0)
    assert loads() == everything | {"encode-0": (1, 0, 0)}
    d.encoded(call, "encode-1", 1)
    d.reserved(call)
    d.prefilled(call, "prefill-0")
    assert loads()["prefill-0"] == (1, 0, 0)
    d.kv_arrived(call)
    assert loads()["prefill-0"] == (1, 0, 0)  # it has not given its blocks back yet
    d.freed(call, "prefill-0")
    assert loads() == {"decode-0": (1, 0, 0)}  # embeddings that are kept for an answer are no work
    d.dispatcher.leave(call, Cancelled("gone"))
    d.freed(call, "encode-0", "encode-1", "decode-0")
    assert loads() == {}


def test_a_deadline_beyond_what_the_wire_can_say_is_no_defect(desk: Any) -> None:
    d = desk()
    d.submit(deadline=d.now + 1e8)
    assert d.last["reserve"].reserve.timeout_ms == 2**32 - 1


async def test_the_timeline_is_in_the_order_of_events(desk: Any) -> None:
    d = desk()
    call = d.submit(images=1)
    d.now += 0.010
    times = pb.StageTimes(queue_us=1000, input_us=2000, compute_us=4000)
    handles = [pb.EmbeddingHandle(index=0)]
    d.hear(call, "encode-0", encode_done=pb.EncodeDone(handles=handles, times=times))
    d.now += 0.001
    d.reserved(call)
    d.now += 0.020
    first = pb.TokenDelta(token_ids=[97])
    d.hear(call, "prefill-0", prefill_done=pb.PrefillDone(token=first, times=times))
    d.now += 0.001
    d.kv_arrived(call)
    d.now += 0.100
    d.decoded(call, "b", FinishReason.LENGTH)
    _, end = await outcome(call)
    assert [(s.name, s.worker, s.start_us, s.duration_us) for s in end.timeline] == [
        ("queue", "", 0, 0),
        ("first token", "", 0, 31_000),
        ("encode", "encode-0", 4_000, 6_000),
        ("reserve", "decode-0", 10_000, 1_000),
        ("embeddings", "prefill-0", 24_000, 2_000),
        ("prefill", "prefill-0", 27_000, 4_000),
        ("decode", "decode-0", 31_000, 101_000),
        ("kv transfer", "decode-0", 31_995, 5),
    ]
