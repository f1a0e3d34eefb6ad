"""The work of a worker that makes vectors: which texts pass the encoder together, and who is told what."""

import random

import pytest

from tests.support.seeds import drawn_seed
from triptych.core.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.texts import Acknowledge, Answer, Batch, Refuse, TextControl, TextJob


def job(name: str, *lengths: int, session: str = "router", deadline: float | None = None) -> TextJob:
    return TextJob(OperationKey(name, 0), session, lengths, 0.0, deadline)


def control(batch_tokens: int = 10, max_waiting: int = 100) -> TextControl:
    return TextControl("encode-0", batch_tokens, max_waiting)


def places(batch: Batch | None) -> list[tuple[str, int]]:
    return [(job.key.request_id, place) for job, place in batch.texts] if batch else []


def test_batches_are_made_over_requests_up_to_the_budget_the_oldest_first() -> None:
    work = control()
    for each in (job("a", 4, 5, 4), job("b", 6), job("c", 30)):
        assert work.submit(each) == []
    first, second, third, fourth = (work.next_batch(float(n)) for n in range(1, 5))
    assert [places(batch) for batch in (first, second, third, fourth)] == [
        [("a", 0), ("a", 1)], [("a", 2), ("b", 0)], [("c", 0)], []
    ]  # fmt: skip
    assert first
    assert second
    assert third
    assert work.computed(first) == []
    assert work.computed(second) == [Answer(job("a", 4, 5, 4), 1.0), Answer(job("b", 6), 2.0)]
    assert work.computed(third) == [Answer(job("c", 30), 3.0)]
    assert (work.open, work.known, work.waiting_texts, work.waiting_tokens) == (0, 3, 0, 0)


def test_a_repetition_does_not_begin_again_and_free_ends_an_operation() -> None:
    work = control()
    work.submit(job("a", 1))
    assert work.submit(job("a", 1)) == []
    batch = work.next_batch(0.0)
    assert places(batch) == [("a", 0)]
    assert work.free(OperationKey("a", 0), "router") == [Acknowledge("router", OperationKey("a", 0))]
    assert batch
    assert work.computed(batch) == []
    assert work.known == 0


def test_what_would_be_too_many_is_refused_with_when_to_come_back() -> None:
    work = control(max_waiting=3)
    assert work.submit(job("a", 1, 1)) == []
    [refusal] = work.submit(job("b", 1, 1))
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, ResourceExhausted)
    assert refusal.error.retry_after == 1.0
    assert "2 texts wait to be embedded and 2 more would be too many" in refusal.error.message
    work.next_batch(0.0)
    assert work.submit(job("c", 1, 1, 1)) == []


def test_deadlines_and_drains_and_lost_sessions() -> None:
    work = control()
    work.submit(job("a", 20, deadline=5.0))
    work.submit(job("b", 20, 20, session="other", deadline=7.0))
    assert work.next_deadline == 5.0
    assert work.tick(4.9) == []
    [late] = work.tick(5.0)
    assert isinstance(late, Refuse)
    assert isinstance(late.error, DeadlineExceeded)
    assert work.end_session("other") == [Acknowledge("other", OperationKey("b", 0))]
    assert (work.open, work.waiting_texts, work.waiting_tokens, work.next_deadline) == (0, 0, 0, None)
    work.drain()
    [refusal] = work.submit(job("c", 1))
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, Unavailable)


def test_a_batch_that_fails_ends_its_jobs_and_no_others() -> None:
    work = control()
    work.submit(job("a", 5, 9))
    work.submit(job("b", 5))
    batch = work.next_batch(0.0)
    assert batch
    [refusal] = work.failed(batch, Internal("broken"))
    assert isinstance(refusal, Refuse)
    assert refusal.job.key.request_id == "a"
    assert places(work.next_batch(1.0)) == [("b", 0)]


@pytest.mark.parametrize("_", range(20))
def test_at_random_every_operation_ends_once_and_nothing_stays(_: int) -> None:
    seed = drawn_seed()
    dice = random.Random(seed)
    work, now, asked, told, batch = control(20, 40), 0.0, 0, [], None
    held: dict[OperationKey, str] = {}
    for _step in range(300):
        now += 1
        match dice.randrange(6):
            case 0 | 1:
                asked += 1
                one = job(f"r{asked}", *(dice.randint(1, 30) for _ in range(dice.randint(1, 5))))
                one = TextJob(one.key, dice.choice("xy"), one.lengths, now, now + dice.randint(1, 40))
                held[one.key] = str(one.session)
                told += work.submit(one)
            case 2 if batch is None:
                batch = work.next_batch(now)
                assert batch is None or batch.tokens <= 20 or len(batch.texts) == 1
            case 3 if batch:
                told += work.computed(batch) if dice.random() < 0.8 else work.failed(batch, Internal("broken"))
                batch = None
            case 4 if held:
                key = dice.choice(list(held))
                told += work.free(key, held.pop(key))
            case _:
                told += work.tick(now)
        assert work.waiting_texts <= 40
    told += work.end_session("x") + work.end_session("y")
    ends = [action.job.key for action in told if isinstance(action, Answer | Refuse)]
    freed = [action.key for action in told if isinstance(action, Acknowledge)]
    assert len(ends) == len(set(ends))
    assert len(freed) == len(set(freed)) == asked
    assert (work.open, work.known, work.waiting_texts, work.waiting_tokens) == (0, 0, 0, 0)
    assert work.next_batch(now) is None
