"""What a decoder worker does with one operation at a time."""

import pytest

from triptych.core.errors import DataLoss, DeadlineExceeded, Internal, TriptychError, Unavailable
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.jobs import Jobs
from triptych.core.jobs import actions as do
from triptych.core.jobs import events as ev
from triptych.core.jobs.commands import Decode, Free, Prefill, Reserve
from triptych.core.jobs.states import Decoding, Delivered, Finished, Recalling, Sending

KEY, OTHER = OperationKey("r", 1), OperationKey("other", 1)
GONE = Unavailable("the connection was lost")


class Scheduler:
    """So many blocks; `waiting` sequences come before all reservations."""

    def __init__(self, free: int = 100) -> None:
        self.free = free
        self.waiting = 0
        self.asked: list[OperationKey] = []

    def reserve(self, key: OperationKey) -> bool:
        self.asked.append(key)
        self.free -= 1
        return self.free >= 0


@pytest.fixture
def jobs() -> Jobs:
    return Jobs("decode-0", block_size=4)


def token(position: int, reason: FinishReason | None = None, key: OperationKey = KEY) -> ev.Sampled:
    return ev.Sampled(key, position, GeneratedToken(40 + position), reason, cached_tokens=2)


def stepped(*tokens: ev.Sampled, prompt: int | None = None, started: float = 3.0) -> ev.Stepped:
    return ev.Stepped(started, () if prompt is None else (ev.Computed(KEY, prompt),), tokens)


def failed(actions: tuple[do.Action, ...]) -> TriptychError:
    [error] = [a.answer.error for a in actions if isinstance(a, do.Tell) and isinstance(a.answer, do.Failed)]
    return error


def test_a_colocated_prompt_from_its_embeddings_to_its_end(jobs: Jobs) -> None:
    assert jobs.handle(Prefill(1, KEY, 1.0, 10, embeddings=2), 1.0) == (do.PullEmbeddings(KEY),)
    assert jobs.handle(ev.EmbeddingsPulled(KEY, 0.5), 1.5) == (do.Add(KEY),)
    assert jobs.handle(stepped(prompt=6, started=2.0), 3.0) == ()
    [told] = jobs.handle(stepped(token(0), prompt=10, started=3.0), 4.0)
    assert told == do.Tell(1, do.PrefillDone(token(0), do.Times(queue=0.5, input=0.5, compute=2.0)))
    assert jobs.handle(stepped(token(1)), 5.0) == (do.Tell(1, do.Tokens((token(1),))),)
    last = token(2, FinishReason.LENGTH)
    assert jobs.handle(stepped(last), 6.0) == (do.Tell(1, do.Tokens((last,))),)
    operation = jobs.find(KEY)
    assert operation
    assert operation.state == Finished()
    assert jobs.handle(Free(1, KEY), 7.0) == (do.Release(KEY), do.Forget(KEY), do.Tell(1, do.Freed(KEY)))
    assert jobs.handle(Free(1, KEY), 7.0) == (do.Tell(1, do.Freed(KEY)),)


def test_a_prompt_is_pushed_block_by_block_and_freed_without_a_fence_once_all_is_acknowledged(jobs: Jobs) -> None:
    assert jobs.handle(Prefill(1, KEY, 1.0, 10, ticket_id="t"), 1.0) == (do.Add(KEY),)
    assert jobs.handle(stepped(prompt=3), 2.0) == ()
    assert jobs.handle(stepped(prompt=9), 2.0) == (do.PushBlocks(KEY, "t", 0, 2, last=False),)
    push, told = jobs.handle(stepped(token(0), prompt=10), 2.0)
    assert push == do.PushBlocks(KEY, "t", 2, 3, last=True)
    assert isinstance(told, do.Tell)
    assert jobs.audit().by_state == {"Sending": 1}
    assert jobs.handle(ev.ChunkAcknowledged(KEY), 2.0) == ()
    assert jobs.handle(ev.ChunkAcknowledged(KEY), 2.0) == ()
    assert jobs.audit().by_state == {"Delivered": 1}
    assert jobs.handle(Free(1, KEY), 3.0) == (do.Release(KEY), do.Forget(KEY), do.Tell(1, do.Freed(KEY)))


def test_what_earlier_attempts_answered_is_pushed_with_the_prompt(jobs: Jobs) -> None:
    """4 of the 8 tokens are the prompt; without the others the KV would end in the middle."""
    jobs.handle(Prefill(1, KEY, 1.0, length=8, answered=4, ticket_id="t"), 1.0)
    assert jobs.handle(stepped(prompt=4), 2.0) == (do.PushBlocks(KEY, "t", 0, 1, last=False),)
    assert jobs.handle(stepped(prompt=8), 2.0) == (do.PushBlocks(KEY, "t", 1, 2, last=True),)


def test_a_free_while_a_chunk_is_under_way_waits_for_the_fence(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 10, ticket_id="t"), 1.0)
    jobs.handle(stepped(prompt=9), 2.0)
    assert jobs.handle(Free(1, KEY), 3.0) == (do.Park(KEY), do.StopSending(KEY, "t"))
    assert jobs.handle(stepped(token(0), prompt=10), 3.0) == ()
    assert jobs.handle(Free(1, KEY), 3.0) == ()
    freed = do.Tell(1, do.Freed(KEY))
    assert jobs.handle(ev.Fenced(KEY), 4.0) == (do.Release(KEY), do.Forget(KEY), freed, freed)
    assert jobs.handle(ev.ChunkFailed(KEY, GONE), 4.0) == ()
    assert jobs.operations == 0


def test_a_reservation_from_its_ticket_to_its_tokens(jobs: Jobs) -> None:
    assert jobs.handle(Reserve(1, KEY, 1.0, 10, "t"), 1.0) == ()
    assert jobs.waiting == 1
    assert jobs.grant(Scheduler()) == (do.OpenLease(KEY, "t"), do.Tell(1, do.Reserved(KEY, "t")))
    assert (jobs.waiting, jobs.open_leases) == (0, 1)
    close, told = jobs.handle(ev.KvComplete("t", 100, 0.5), 2.0)
    assert (close, told) == (do.CloseLease("t", KEY), do.Tell(1, do.KvReady(KEY, 100, 0.5)))
    assert jobs.open_leases == 0
    assert jobs.handle(Decode(1, KEY, (40,)), 2.0) == (do.Start(KEY, (40,)),)
    assert jobs.handle(Decode(1, KEY, (40,)), 2.0) == ()
    assert jobs.handle(stepped(token(1)), 3.0) == (do.Tell(1, do.Tokens((token(1),))),)
    assert jobs.handle(Free(1, KEY), 4.0) == (
        do.Park(KEY),
        do.Release(KEY),
        do.Forget(KEY),
        do.Tell(1, do.Freed(KEY)),
    )


def test_decode_may_come_before_the_kv(jobs: Jobs) -> None:
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t", answered=1), 1.0)
    jobs.grant(Scheduler())
    assert jobs.handle(Decode(1, KEY, (40, 41)), 2.0) == ()
    assert jobs.handle(ev.KvComplete("t", 100, 0.5), 2.0)[-1] == do.Start(KEY, (40, 41))


@pytest.mark.parametrize("emitted", [(), (40,), (40, 41)])
def test_decode_must_go_beyond_the_tokens_that_the_kv_is_of(jobs: Jobs, emitted: tuple[int, ...]) -> None:
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t", answered=2), 1.0)
    jobs.grant(Scheduler())
    error = failed(jobs.handle(Decode(1, KEY, emitted), 2.0))
    assert isinstance(error, Internal)
    assert f"more than the 2 tokens that the KV is of, got {len(emitted)}" in error.message


def test_reservations_are_granted_in_their_order(jobs: Jobs) -> None:
    keys = [OperationKey(name, 1) for name in "abcd"]
    for key in keys:
        jobs.handle(Reserve(1, key, 1.0, 10, key.request_id), 1.0)
    scheduler = Scheduler(free=1)
    scheduler.waiting = 1
    assert jobs.grant(scheduler) == ()
    scheduler.waiting = 0
    assert [a.key for a in jobs.grant(scheduler) if isinstance(a, do.OpenLease)] == keys[:1]
    assert jobs.handle(Free(1, keys[1]), 2.0) == (do.Forget(keys[1]), do.Tell(1, do.Freed(keys[1])))
    scheduler.free = 5
    assert [a.key for a in jobs.grant(scheduler) if isinstance(a, do.OpenLease)] == keys[2:]
    assert scheduler.asked == [keys[0], keys[1], keys[2], keys[3]]


def test_an_answer_that_waits_for_its_embeddings_holds_no_reservation_up(jobs: Jobs) -> None:
    scheduler = Scheduler()
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t"), 1.0)
    jobs.grant(scheduler)
    jobs.handle(ev.KvComplete("t", 100, 0.5), 2.0)
    jobs.handle(Decode(1, KEY, (40,)), 2.0)
    assert jobs.handle(ev.Stalled(KEY), 3.0) == (do.PullEmbeddings(KEY),)
    jobs.handle(Reserve(1, OTHER, 3.0, 10, "u"), 3.0)
    assert jobs.grant(scheduler)[0] == do.OpenLease(OTHER, "u")
    jobs.handle(ev.EmbeddingsPulled(KEY, 0.5), 4.0)
    scheduler.waiting = 1  # now a block would help it
    third = OperationKey("third", 1)
    jobs.handle(Reserve(1, third, 4.0, 10, "v"), 4.0)
    assert jobs.grant(scheduler) == ()
    scheduler.waiting = 0
    assert jobs.grant(scheduler)[0] == do.OpenLease(third, "v")


def test_a_lease_that_ends_gives_its_blocks_back_before_free(jobs: Jobs) -> None:
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t"), 1.0)
    jobs.grant(Scheduler())
    actions = jobs.handle(ev.KvFailed("t", GONE), 2.0)
    assert actions == (do.Tell(1, do.Failed(KEY, GONE)), do.Release(KEY))
    assert (jobs.open_leases, jobs.audit().sequences) == (0, frozenset())
    assert jobs.handle(Free(1, KEY), 3.0) == (do.Forget(KEY), do.Tell(1, do.Freed(KEY)))


def test_a_late_reservation_is_failed_and_its_lease_fenced_by_free(jobs: Jobs) -> None:
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t", deadline=5.0), 1.0)
    jobs.grant(Scheduler())
    assert jobs.next_deadline == 5.0
    assert jobs.expire(4.9) == ()
    assert isinstance(failed(jobs.expire(5.0)), DeadlineExceeded)
    assert jobs.expire(9.0) == ()
    assert jobs.next_deadline is None
    assert jobs.handle(Free(1, KEY), 6.0) == (do.StopReceiving(KEY, "t"),)
    assert jobs.handle(ev.KvComplete("t", 1, 0.1), 6.0) == ()
    assert jobs.handle(ev.Fenced(KEY), 6.0) == (do.Release(KEY), do.Forget(KEY), do.Tell(1, do.Freed(KEY)))


@pytest.mark.parametrize("error", [GONE, DataLoss("damaged")])
def test_a_chunk_that_fails_fails_its_prompt_once(jobs: Jobs, error: TriptychError) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 12, ticket_id="t"), 1.0)
    jobs.handle(stepped(prompt=4), 2.0)
    jobs.handle(stepped(prompt=8), 2.0)
    assert jobs.handle(ev.ChunkFailed(KEY, error), 2.0) == (do.Park(KEY), do.Tell(1, do.Failed(KEY, error)))
    assert jobs.handle(stepped(token(0), prompt=12), 2.0) == ()
    assert jobs.handle(ev.ChunkFailed(KEY, error), 2.0) == ()
    assert jobs.handle(Free(1, KEY), 2.0) == (do.Release(KEY), do.Forget(KEY), do.Tell(1, do.Freed(KEY)))


def test_the_last_chunk_may_fail_after_the_first_token_is_told(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 4, ticket_id="t"), 1.0)
    jobs.handle(stepped(token(0), prompt=4), 2.0)
    operation = jobs.find(KEY)
    assert operation
    assert operation.state == Sending(1)
    assert failed(jobs.handle(ev.ChunkFailed(KEY, GONE), 2.0)) is GONE


def test_who_has_its_answer_is_not_told_of_its_deadline(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 4, ticket_id="t", deadline=5.0), 1.0)
    jobs.handle(Prefill(1, OTHER, 1.0, 4, deadline=5.0), 1.0)
    jobs.handle(stepped(token(0), token(0, FinishReason.STOP, OTHER), prompt=4), 2.0)
    jobs.handle(ev.ChunkAcknowledged(KEY), 2.0)
    assert [type(op.state) for op in jobs.audit().operations.values()] == [Delivered, Finished]
    assert jobs.expire(9.0) == ()


def test_embeddings_are_fetched_again_for_an_answer_that_gave_way(jobs: Jobs) -> None:
    jobs.handle(Reserve(1, KEY, 1.0, 10, "t"), 1.0)
    jobs.grant(Scheduler())
    jobs.handle(Decode(1, KEY, (40,)), 2.0)
    jobs.handle(ev.KvComplete("t", 100, 0.5), 2.0)
    assert jobs.handle(ev.Stalled(KEY), 3.0) == (do.PullEmbeddings(KEY),)
    assert jobs.handle(ev.Stalled(KEY), 3.0) == ()
    operation = jobs.find(KEY)
    assert operation
    assert operation.state == Recalling()
    assert jobs.handle(ev.EmbeddingsPulled(KEY, 0.1), 3.0) == (do.Supply(KEY),)
    jobs.handle(ev.Stalled(KEY), 4.0)
    actions = jobs.handle(ev.EmbeddingsFailed(KEY, GONE), 4.0)
    assert actions == (do.DropPull(KEY), do.Park(KEY), do.Tell(1, do.Failed(KEY, GONE)))


def test_a_session_takes_its_operations_with_it_and_nothing_is_told(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 10, ticket_id="t"), 1.0)
    jobs.handle(Prefill(2, OTHER, 1.0, 10), 1.0)
    jobs.handle(stepped(prompt=9), 2.0)
    assert jobs.handle(ev.SessionEnded(1), 3.0) == (do.Park(KEY), do.StopSending(KEY, "t"))
    # The router's next stream asks while the fence is under way: it is answered when it holds.
    assert jobs.handle(Free(3, KEY), 3.0) == ()
    again = failed(jobs.handle(Prefill(3, KEY, 3.0, 10), 3.0))
    assert isinstance(again, Unavailable)
    assert jobs.handle(ev.Fenced(KEY), 4.0) == (do.Release(KEY), do.Forget(KEY), do.Tell(3, do.Freed(KEY)))
    assert list(jobs.audit().operations) == [OTHER]


def test_two_routers_with_the_same_name_do_not_touch_each_other(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 10), 1.0)
    refusal = failed(jobs.handle(Reserve(2, KEY, 1.0, 10, "t"), 1.0))
    assert isinstance(refusal, Unavailable)
    assert jobs.handle(Free(2, KEY), 1.0) == (do.Tell(2, do.Freed(KEY)),)
    operation = jobs.find(KEY)
    assert operation
    assert operation.task.session == 1


def test_tokens_of_a_step_travel_together(jobs: Jobs) -> None:
    keys = [OperationKey(name, 1) for name in "abc"]
    for session, key in zip((1, 2, 1), keys, strict=True):
        jobs.handle(Prefill(session, key, 1.0, 4), 1.0)
    jobs.handle(ev.Stepped(1.0, (), tuple(token(0, key=key) for key in keys)), 2.0)
    assert {type(op.state) for op in jobs.audit().operations.values()} == {Decoding}
    tokens = [token(1, key=key) for key in keys]
    told = jobs.handle(ev.Stepped(2.0, (), tuple(tokens)), 3.0)
    assert told == (do.Tell(1, do.Tokens((tokens[0], tokens[2]))), do.Tell(2, do.Tokens((tokens[1],))))


def test_an_audit_names_what_does_not_fit(jobs: Jobs) -> None:
    jobs.handle(Prefill(1, KEY, 1.0, 4), 1.0)
    assert jobs.audit().problems([KEY], []) == ()
    assert jobs.audit().problems([OTHER], ["t"]) == (
        "other/1 holds blocks and is no operation",
        "r/1 has lost its sequence",
        "lease t belongs to no operation",
    )
