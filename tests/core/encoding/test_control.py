"""What an encode worker does, event by event."""

from collections.abc import Sequence
from typing import Any

import pytest

from triptych.core.encoding.actions import Acknowledge, Answer, Compute, Evict, Refuse
from triptych.core.encoding.batching import MAX_PICTURES
from triptych.core.encoding.control import EncodeControl
from triptych.core.encoding.job import Batch, Job
from triptych.core.encoding.limits import EncodeLimits
from triptych.core.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable
from triptych.core.generation import OperationKey

SIZE = 10
SIZES = {"L": 35, "T": 3, "S": 2}
ROOM = 4


def control(room: int = ROOM, waiting: int = 30) -> EncodeControl[Job]:
    return EncodeControl("encode-0", EncodeLimits(room * SIZE, 256, waiting))


def job(
    name: str,
    pictures: Sequence[str],
    *,
    epoch: int = 1,
    session: int = 7,
    deadline: float | None = None,
    anew: bool = False,
) -> Job:
    sizes = tuple(SIZES.get(picture, SIZE) for picture in pictures)
    return Job(OperationKey(name, epoch), session, tuple(pictures), sizes, deadline, anew)


def settled(worker: EncodeControl[Job], *jobs: Job) -> None:
    """Submits each and lets its batch end."""
    for each in jobs:
        worker.submit(each, 0.0)
        if worker.batch:
            worker.encoded(worker.batch.pictures, {}, 0.0)


def errors(actions: Sequence[Any]) -> list[tuple[str, type[Exception]]]:
    return [(action.job.key.request_id, type(action.error)) for action in actions if isinstance(action, Refuse)]


def test_pictures_are_computed_once_and_held_until_free() -> None:
    worker, a = control(), job("a", "xyx")
    assert worker.submit(a, 1.0) == [Compute(Batch((a,), ("x", "y"), 1.0))]
    assert worker.encoded(("x", "y"), {}, 3.0) == [Answer(a, 1.0)]
    assert worker.encoded_images == 2
    assert worker.audit().held == (a.key,)
    assert worker.audit().holdings.held_bytes == 2 * SIZE
    assert worker.free(a.key, 7, 4.0) == [Acknowledge(7, a.key)]
    assert worker.audit().quiescent
    assert worker.holdings.stored_bytes == 2 * SIZE


def test_what_comes_during_a_batch_goes_together_afterwards() -> None:
    worker, a, b, c = control(), job("a", "x"), job("b", "yx"), job("c", "zy")
    worker.submit(a, 0.0)
    assert worker.submit(b, 1.0) == worker.submit(c, 2.0) == []
    assert worker.queued_images == 4
    assert worker.encoded("x", {}, 3.0) == [Answer(a, 0.0), Compute(Batch((b, c), ("y", "z"), 3.0))]
    assert worker.queued_images == 0
    assert worker.encoded("yz", {}, 4.0) == [Answer(b, 3.0), Answer(c, 3.0)]


def test_a_batch_is_bounded_by_its_new_pictures() -> None:
    worker = control(room=100, waiting=100)
    worker.submit(job("a", ["x"]), 0.0)
    sizes = {"b": 7, "c": MAX_PICTURES - 7, "d": 1}
    b, c, d = (job(name, ["x", *(f"{name}{i}" for i in range(size))]) for name, size in sizes.items())
    for each in (b, c, d):
        worker.submit(each, 0.0)
    [_, compute] = worker.encoded("x", {}, 0.0)
    assert isinstance(compute, Compute)
    assert compute.batch.jobs == (b, c)
    assert len(compute.batch.pictures) == MAX_PICTURES


def test_a_job_that_is_too_many_for_a_batch_is_not_overtaken() -> None:
    worker = control(room=100, waiting=100)
    worker.submit(job("a", ["x"]), 0.0)
    sizes = {"b": 7, "c": MAX_PICTURES - 6, "d": 1}
    b, c, d = (job(name, [f"{name}{i}" for i in range(size)]) for name, size in sizes.items())
    for each in (b, c, d):
        worker.submit(each, 0.0)
    [_, compute] = worker.encoded("x", {}, 0.0)
    assert isinstance(compute, Compute)
    assert compute.batch.jobs == (b,)
    [_, compute] = worker.encoded(compute.batch.pictures, {}, 0.0)
    assert isinstance(compute, Compute)
    assert compute.batch.jobs == (c, d)


def test_a_job_with_more_pictures_than_a_batch_goes_alone() -> None:
    worker = control(room=100, waiting=100)
    worker.submit(job("a", ["x"]), 0.0)
    large = job("large", [str(i) for i in range(MAX_PICTURES + 5)])
    worker.submit(large, 0.0)
    worker.submit(job("small", ["y"]), 0.0)
    [_, compute] = worker.encoded("x", {}, 0.0)
    assert isinstance(compute, Compute)
    assert compute.batch.jobs == (large,)


def test_pictures_that_are_there_are_answered_without_a_computation() -> None:
    worker = control()
    settled(worker, job("a", "xy"))
    held = job("b", "yx")
    assert worker.submit(held, 5.0) == [Answer(held, None)]
    for name in "ab":
        worker.free(OperationKey(name, 1), 7, 6.0)
    cached = job("c", "x")
    assert worker.submit(cached, 7.0) == [Answer(cached, None)]
    assert worker.encoded_images == 2


def test_pictures_that_are_there_do_not_wait_for_a_batch_of_others() -> None:
    worker, hit = control(), job("b", "x")
    settled(worker, job("a", "x"))
    worker.submit(job("slow", "y"), 0.0)
    assert worker.submit(hit, 1.0) == [Answer(hit, None)]


def test_nobody_is_overtaken() -> None:
    worker, large, hit, small = control(), job("large", "pqr"), job("hit", "x"), job("small", "s")
    settled(worker, job("a", "xy"))
    for each in (large, hit, small):  # large has no room beside x and y
        assert worker.submit(each, 0.0) == []
    assert worker.free(OperationKey("a", 1), 7, 1.0)[:-1] == [
        Answer(hit, None),
        Evict("y"),
        Compute(Batch((large,), ("p", "q", "r"), 1.0)),
    ]


def test_only_what_nobody_holds_is_evicted_and_nothing_that_the_batch_needs() -> None:
    worker = control()
    settled(worker, job("a", "w"), job("b", "x"), job("c", "y"), job("d", "z"))
    worker.submit(job("slow", "w"), 0.0)
    for name in "bcd":
        worker.free(OperationKey(name, 1), 7, 0.0)
    mixed = job("e", "xv")
    assert worker.submit(mixed, 1.0) == [Evict("y"), Compute(Batch((mixed,), ("v",), 1.0))]


def test_a_repeated_command_changes_nothing() -> None:
    worker = control()
    a, queued = job("a", "x"), job("b", "y")
    worker.submit(a, 0.0)
    worker.submit(queued, 0.0)
    assert worker.submit(a, 1.0) == worker.submit(queued, 1.0) == []
    assert worker.encoded("x", {}, 2.0)[0] == Answer(a, 0.0)
    assert worker.submit(a, 3.0) == []
    assert worker.encoded("y", {}, 4.0) == [Answer(queued, 2.0)]


def test_a_result_after_its_free_is_not_held_and_serves_the_next_attempt() -> None:
    worker, first, second = control(), job("a", "xy"), job("a", "xy", epoch=2)
    worker.submit(first, 0.0)
    assert worker.free(first.key, 7, 1.0) == [Acknowledge(7, first.key)]
    assert worker.submit(second, 1.0) == []
    assert worker.encoded("xy", {}, 2.0) == [Answer(second, None)]
    assert worker.encoded_images == 2
    assert [holding.holder for holding in worker.audit().holdings.holdings] == [second.key]


def test_an_attempt_that_is_freed_leaves_its_successor_alone() -> None:
    worker, first, second = control(), job("a", "xy"), job("a", "xy", epoch=2)
    settled(worker, first)
    assert worker.submit(second, 1.0) == [Answer(second, None)]
    worker.free(first.key, 7, 1.0)
    assert worker.audit().held == (second.key,)
    assert worker.audit().holdings.held_bytes == 2 * SIZE


def test_free_of_what_nobody_knows_is_acknowledged() -> None:
    assert control().free(OperationKey("a", 1), 7, 0.0) == [Acknowledge(7, OperationKey("a", 1))]


def test_another_routers_operation_is_neither_taken_nor_freed() -> None:
    worker, mine = control(), job("a", "x")
    settled(worker, mine)
    assert errors(worker.submit(job("a", "x", session=8), 0.0)) == [("a", Unavailable)]
    assert worker.free(mine.key, 8, 0.0) == [Acknowledge(8, mine.key)]
    assert worker.audit().held == (mine.key,)


def test_a_session_takes_everything_of_it_along() -> None:
    worker = control()
    other = job("other", "z", session=8)
    settled(worker, job("held", "x"))
    worker.submit(job("encoding", "y"), 0.0)
    worker.submit(job("waiting", "w"), 0.0)
    worker.submit(other, 0.0)
    assert worker.end_session(7, 1.0) == []
    assert worker.encoded("y", {}, 2.0) == [Compute(Batch((other,), ("z",), 2.0))]
    assert (worker.open, worker.audit().holdings.held_bytes) == (1, SIZE)


def test_a_bad_picture_fails_its_jobs_and_is_not_kept() -> None:
    worker, good, bad = control(), job("good", "x"), job("bad", "xy")
    worker.submit(job("first", "z"), 0.0)
    worker.submit(good, 0.0)
    worker.submit(bad, 0.0)
    worker.encoded("z", {}, 0.0)
    error = InvalidArgument("not a picture")
    assert worker.encoded("x", {bad.key: error}, 1.0) == [Answer(good, 0.0), Refuse(bad, error)]
    audit = worker.audit()
    assert (audit.failed, audit.holdings.stored_bytes, audit.problems) == ((bad.key,), 2 * SIZE, ())
    assert worker.submit(bad, 2.0) == []
    worker.free(bad.key, 7, 3.0)
    [compute] = worker.submit(bad, 4.0)
    assert isinstance(compute, Compute)


def test_a_picture_without_a_result_fails_whoever_needs_it() -> None:
    worker = control()
    worker.submit(job("a", "xy"), 0.0)
    assert errors(worker.encoded("x", {}, 1.0)) == [("a", Internal)]
    assert worker.audit().holdings.stored_bytes == SIZE


def test_embeddings_of_any_size_share_the_room_by_their_bytes() -> None:
    worker, small, next_ = control(), job("small", "TS"), job("next", "S")
    settled(worker, job("large", "L"))
    assert worker.audit().holdings.held_bytes == SIZES["L"]
    assert isinstance(worker.submit(small, 1.0)[0], Compute)  # 35 + 3 + 2 of 40 bytes
    worker.encoded("TS", {}, 2.0)
    assert worker.audit().holdings.held_bytes == ROOM * SIZE
    assert worker.submit(job("more", "u"), 3.0) == []
    assert worker.submit(next_, 3.0) == []  # found, but nobody is overtaken
    [refusal] = worker.submit(job("too large", "LT0"), 3.0)
    assert isinstance(refusal, Refuse)
    assert refusal.error.message == (
        "the embeddings of 3 images need 48 bytes; this worker keeps at most 40 (transfer.embedding_cache)"
    )
    freed = worker.free(small.key, 7, 4.0)  # 5 bytes are not enough
    assert [type(action) for action in freed] == [Acknowledge]
    answer, *evicted, compute, _ = worker.free(OperationKey("large", 1), 7, 5.0)
    assert (answer, evicted) == (Answer(next_, None), [Evict("T"), Evict("L")])
    assert isinstance(compute, Compute)


def test_the_queue_is_bounded() -> None:
    worker = control(waiting=3)
    worker.submit(job("a", "x"), 0.0)
    worker.submit(job("b", "yz"), 0.0)
    [refusal] = worker.submit(job("c", "yz"), 0.0)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, ResourceExhausted)
    assert refusal.error.message == (
        "2 images wait to be encoded and 2 more would be too many; this worker queues at most 3"
    )
    assert refusal.error.retry_after == 1.0
    assert worker.queued_images == 2
    worker.submit(job("d", "y"), 0.0)
    assert worker.queued_images == 3


def test_what_never_fits_is_refused_at_once() -> None:
    worker = control()
    [refusal] = worker.submit(job("a", "vwxyz"), 0.0)
    assert isinstance(refusal, Refuse)
    assert refusal.error.message == (
        "the embeddings of 5 images need 50 bytes; this worker keeps at most 40 (transfer.embedding_cache)"
    )


def test_waiting_ends_with_the_deadline() -> None:
    worker = control()
    worker.submit(job("a", "x"), 0.0)
    assert worker.next_deadline is None
    for name, deadline in (("b", 9.0), ("c", 5.0), ("d", None), ("f", 11.0)):
        worker.submit(job(name, "y", deadline=deadline), 0.0)
    assert worker.next_deadline == 5.0
    assert worker.tick(4.9) == []
    assert errors(worker.tick(5.0)) == [("c", DeadlineExceeded)]
    assert worker.next_deadline == 9.0
    assert errors(worker.encoded("x", {}, 9.5)) == [("b", DeadlineExceeded)]
    assert errors(worker.submit(job("e", "z", deadline=9.5), 9.5)) == [("e", DeadlineExceeded)]
    assert worker.audit().failed == tuple(OperationKey(name, 1) for name in "bce")


def test_an_expired_job_makes_way() -> None:
    worker, small = control(), job("small", "z")
    settled(worker, job("a", "xy"))
    worker.submit(job("large", "pqr", deadline=5.0), 0.0)
    worker.submit(small, 0.0)
    assert worker.tick(5.0)[1:] == [Compute(Batch((small,), ("z",), 5.0))]


def test_a_draining_worker_finishes_what_it_has() -> None:
    worker, a, queued = control(), job("a", "x"), job("b", "y")
    worker.submit(a, 0.0)
    worker.submit(queued, 0.0)
    worker.drain()
    [refusal] = worker.submit(job("c", "z"), 1.0)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, Unavailable)
    assert refusal.error.message == "worker encode-0 is draining"
    assert worker.submit(queued, 1.0) == []
    assert worker.encoded("x", {}, 2.0) == [Answer(a, 0.0), Compute(Batch((queued,), ("y",), 2.0))]


def test_a_result_without_a_batch_is_a_defect() -> None:
    with pytest.raises(Internal, match="a batch ended that had not begun"):
        control().encoded("x", {}, 0.0)


def test_nothing_asked_is_answered() -> None:
    worker, empty = control(), job("a", "")
    assert worker.submit(empty, 0.0) == [Answer(empty, None)]
    assert worker.audit().problems == ()


def test_a_damaged_embedding_is_computed_again() -> None:
    worker, replay = control(), job("a", "xy", epoch=2, anew=True)
    settled(worker, job("a", "xy"))
    worker.free(OperationKey("a", 1), 7, 1.0)
    assert worker.submit(replay, 2.0) == [Compute(Batch((replay,), ("x", "y"), 2.0))]
    assert worker.holdings.stored_bytes == 2 * SIZE
    assert worker.encoded("xy", {}, 3.0) == [Answer(replay, 2.0)]
    later = job("b", "yx")
    assert worker.submit(later, 4.0) == [Answer(later, None)]


def test_a_damaged_embedding_that_others_hold_is_computed_again_and_stays_theirs() -> None:
    worker, replay, other = control(room=1), job("a", "x", epoch=2, anew=True), job("c", "x")
    settled(worker, job("a", "x"), job("holder", "x"))
    worker.free(OperationKey("a", 1), 7, 1.0)
    assert worker.submit(replay, 2.0) == [Compute(Batch((replay,), ("x",), 2.0))]
    assert worker.submit(other, 2.5) == [], "nobody is answered from what may be damaged"
    assert worker.encoded("x", {}, 3.0) == [Answer(replay, 2.0), Answer(other, None)]
    assert set(worker.audit().held) == {OperationKey("holder", 1), replay.key, other.key}
    assert worker.audit().problems == ()


def test_what_is_being_computed_is_not_what_a_reader_found_damaged() -> None:
    worker, first, replay = control(), job("a", "x"), job("b", "x", epoch=2, anew=True)
    worker.submit(first, 0.0)
    assert worker.submit(replay, 1.0) == []
    assert worker.encoded("x", {}, 2.0) == [Answer(first, 0.0), Answer(replay, None)]


@pytest.mark.parametrize("held", [False, True])
def test_a_damaged_embedding_that_cannot_be_computed_again_is_given_to_nobody(held: bool) -> None:
    worker, replay = control(), job("a", "x", epoch=2, anew=True)
    settled(worker, job("a", "x"), *[job("holder", "x")] * held)
    worker.free(OperationKey("a", 1), 7, 1.0)
    worker.submit(replay, 2.0)
    [refusal, *rest] = worker.encoded("", {}, 3.0)
    assert isinstance(refusal, Refuse)
    assert rest == ([] if held else [Evict("x")])
    [compute] = worker.submit(job("b", "x"), 4.0)
    assert isinstance(compute, Compute)
    assert worker.audit().problems == ()
