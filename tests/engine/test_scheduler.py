"""Which tokens run in which step, and in which blocks."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from triptych.core.errors import ResourceExhausted
from triptych.core.generation import FinishReason, OperationKey
from triptych.engine.plan import StepPlan
from triptych.engine.sequence import Goal, Media

Bench = Callable[..., Any]
HERE = Media(1, 3, torch.zeros(3, 2), "picture")
ELSEWHERE = Media(1, 3, None, "picture")


def shape(plan: StepPlan) -> list[tuple[str, int, int]]:
    """What each sequence ran in a finished step, as (request, start, length)."""
    decodes = [(s.key.request_id, s.computed - 1, 1) for s in plan.decodes]
    return decodes + [(c.sequence.key.request_id, c.start, c.length) for c in plan.prompts]


def test_prompts_start_together_and_decode_together(bench: Bench) -> None:
    b = bench()
    b.add(3, max_tokens=2)
    b.add(5, max_tokens=2)
    plan, emitted = b.step()
    assert shape(plan) == [("1", 0, 3), ("2", 0, 5)]
    assert [e.finish_reason for e in emitted] == [None, None]
    plan, emitted = b.step()
    assert shape(plan) == [("1", 3, 1), ("2", 5, 1)]
    assert [e.finish_reason for e in emitted] == [FinishReason.LENGTH] * 2
    assert b.step() == (StepPlan(), [])


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8, 11, 12])
def test_a_long_prompt_is_cut_at_the_budget(bench: Bench, budget: int) -> None:
    b = bench(max_batch_tokens=budget)
    b.add(12, max_tokens=1)
    pieces = [min(budget, 12 - start) for start in range(0, 12, budget)]
    for i, length in enumerate(pieces):
        plan, emitted = b.step()
        assert shape(plan) == [("1", i * budget, length)]
        assert len(emitted) == (i == len(pieces) - 1)


def test_no_chunk_ends_inside_an_image_that_sees_itself(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    b = bench(blocks=200, max_batch_tokens=16, max_running=12, whole_images=True)
    waiting = [prompt_with_images(rng) for _ in range(40)]
    ended: set[str] = set()
    while len(ended) < 40:
        if waiting and rng.random() < 0.5:
            length, media = waiting.pop()
            b.add(length, rng.randint(1, 9), media=media)
        plan, emitted = b.step()
        assert plan or waiting
        assert plan.tokens <= 16
        for sequence, start, length in ((c.sequence, c.start, c.length) for c in plan.prompts):
            end = start + length
            assert not any(m.start < end < m.start + m.length for m in sequence.media)
        for each in emitted:
            if each.finish_reason is not None:
                ended.add(each.sequence.key.request_id)
                b.scheduler.release(each.sequence.key)
    b.scheduler.check_integrity()


def test_an_image_that_needs_the_step_has_it_before_answers_go_on(bench: Bench) -> None:
    b = bench(blocks=50, max_batch_tokens=12, whole_images=True)
    for _ in range(3):
        b.add(2, max_tokens=9)
    b.step()
    b.add(14, media=(Media(2, 11, torch.zeros(11, 2), "picture"),))
    assert shape(b.step()[0])[3:] == [("4", 0, 2)]  # the quarter of a step that prompts have beside answers
    plan, _ = b.step()
    assert [sequence.key.request_id for sequence in plan.decodes] == ["1"]
    assert [(chunk.start, chunk.length) for chunk in plan.prompts] == [(2, 11)]
    assert len(b.step()[0].decodes) == 4


def test_an_image_larger_than_a_step_is_refused_where_it_must_be_whole(bench: Bench) -> None:
    media = (Media(2, 13, torch.zeros(13, 2), "picture"),)
    bench(max_batch_tokens=12).add(16, media=media)
    with pytest.raises(ResourceExhausted, match="an image of 13 tokens must be computed in one step, which holds 12"):
        bench(max_batch_tokens=12, whole_images=True).add(16, media=media)


def prompt_with_images(rng: random.Random) -> tuple[int, tuple[Media, ...]]:
    """Its length, and images of up to a whole step."""
    place, media = rng.randint(0, 5), []
    for _ in range(rng.randint(0, 3)):
        length = rng.randint(1, 16)
        media.append(Media(place, length, torch.zeros(length, 2), "picture"))
        place += length + rng.randint(0, 6)
    return place + rng.randint(1, 5), tuple(media)


def test_decode_tokens_come_before_prompts_which_get_a_quarter_of_the_step(bench: Bench) -> None:
    b = bench(max_batch_tokens=12)
    b.add(2, max_tokens=9)
    b.step()
    b.add(7)
    b.add(3)
    assert shape(b.step()[0]) == [("1", 2, 1), ("2", 0, 3)]
    assert shape(b.step()[0]) == [("1", 3, 1), ("2", 3, 3)]
    # The end of the second prompt is one token and goes before the rest of the budget is handed out.
    assert shape(b.step()[0]) == [("1", 4, 1), ("2", 6, 1), ("3", 0, 3)]
    assert shape(b.step()[0]) == [("1", 5, 1), ("2", 7, 1), ("3", 3, 1)]


@pytest.mark.parametrize(("budget", "answers"), [(16, 1), (16, 3), (16, 12), (16, 14), (3, 2)])
def test_rows_of_prompts_are_bounded_while_answers_run_and_only_then(bench: Bench, budget: int, answers: int) -> None:
    b = bench(blocks=99, max_batch_tokens=budget, max_running=99)
    for _ in range(answers):
        b.add(1, max_tokens=4, family=0)
    b.step()
    b.add(40, max_tokens=1)
    bound = min(max(1, budget // 4), budget - answers)
    for _ in range(3):
        plan, _ = b.step()
        assert (len(plan.decodes), plan.tokens) == (answers, answers + bound)
    plan, _ = b.step()
    assert (len(plan.decodes), plan.tokens) == (0, min(budget, 40 - 3 * bound))


def test_more_answers_than_budget_take_turns_by_age(bench: Bench) -> None:
    b = bench(max_batch_tokens=2)
    for _ in range(3):
        b.add(1, max_tokens=3)
    steps = [shape(b.step()[0]) for _ in range(5)]
    assert steps[0] == [("1", 0, 1), ("2", 0, 1)]
    assert all(len(step) <= 2 for step in steps)
    b.drain()


def test_a_prompt_of_one_token(bench: Bench) -> None:
    b = bench()
    sequence = b.add(1, max_tokens=1)
    plan, emitted = b.step()
    assert shape(plan) == [("1", 0, 1)]
    assert emitted[0].finish_reason is FinishReason.LENGTH
    assert len(sequence.token_ids) == 2


def test_no_more_sequences_run_than_allowed(bench: Bench) -> None:
    b = bench(max_running=2)
    for _ in range(3):
        b.add(1, max_tokens=2)
    assert [len(b.step()[0].sequences) for _ in range(3)] == [2, 2, 1]
    assert (b.scheduler.running, b.scheduler.waiting) == (1, 0)


def test_the_queue_keeps_its_order_even_when_a_small_one_would_fit(bench: Bench) -> None:
    b = bench(blocks=4)
    b.add(8, max_tokens=2)
    b.add(12)
    b.add(1)
    assert shape(b.step()[0]) == [("1", 0, 8)]
    assert b.scheduler.waiting == 2
    assert b.scheduler.waiting_tokens == 12


def test_what_the_whole_pool_could_not_hold_is_refused(bench: Bench) -> None:
    b = bench(blocks=2)
    b.add(7)
    with pytest.raises(ResourceExhausted, match="9 tokens do not fit the KV cache, which holds 8") as caught:
        b.add(8)
    assert (caught.value.field, caught.value.request_id) == ("kv_cache.memory", "2")
    assert OperationKey("2") not in b.scheduler


def test_the_youngest_gives_way_and_continues_where_it_was(bench: Bench) -> None:
    b = bench(blocks=4)
    old, young = b.add(7, max_tokens=6), b.add(7, max_tokens=6)
    b.step()
    b.step()
    before = list(young.token_ids)
    plan, _ = b.step()  # both need a third block now
    assert shape(plan) == [("1", 8, 1)]
    assert b.scheduler.preemptions == 1
    assert (young.blocks, young.computed, young.token_ids) == ([], 0, before)
    b.drain()
    assert len(old.token_ids) == len(young.token_ids) == 13
    assert b.scheduler.preemptions == 1


def test_a_preempted_sequence_is_not_planned_in_the_same_step(bench: Bench) -> None:
    b = bench(blocks=3, block_size=2)
    b.add(2, max_tokens=4)
    young = b.add(1, max_tokens=5)
    while not b.scheduler.preemptions:
        plan, _ = b.step()
    assert shape(plan) == [("1", 3, 1)]
    assert young.blocks == []
    b.drain()
    assert young.generated == 5


def test_a_preempted_prompt_starts_again(bench: Bench) -> None:
    b = bench(blocks=4, max_batch_tokens=4)
    b.add(4, max_tokens=12)
    b.step()
    half = b.add(8)
    b.step()
    assert half.computed == 1
    while not b.scheduler.preemptions:
        b.step()
    assert half.generated == 0 or half.computed == 0
    b.drain()
    assert half.generated == 4


def test_blocks_that_a_transfer_may_be_reading_are_not_taken(bench: Bench) -> None:
    b = bench(blocks=4, max_batch_tokens=32)
    old = b.add(7, max_tokens=6)
    b.step()
    sent = b.add(8, goal=Goal.FIRST_TOKEN)
    b.step()
    assert sent.generated == 1
    held = list(sent.blocks)
    b.step()
    assert (old.blocks, b.scheduler.preemptions) == ([], 1)  # it gave way itself
    assert sent.blocks == held
    assert not b.step()[0]
    b.scheduler.release(sent.key)
    assert shape(b.step()[0]) == [("1", 8, 1)]  # its own blocks were still there
    b.drain()
    assert old.generated == 6


def test_a_first_token_is_the_end_of_a_prefill(bench: Bench) -> None:
    b = bench()
    sequence = b.add(5, max_tokens=3, goal=Goal.FIRST_TOKEN)
    _, [emitted] = b.step()
    assert emitted.finish_reason is None
    assert not b.step()[0]
    assert (b.scheduler.running, len(sequence.blocks)) == (0, 2)
    b.scheduler.release(sequence.key)
    assert b.scheduler.pool.held_count == 0


def test_a_preempted_sequence_with_its_embeddings_at_hand_is_computed_again(bench: Bench) -> None:
    b = bench(blocks=4)
    b.add(7, max_tokens=6)
    young = b.add(7, max_tokens=6, media=(HERE,))
    b.drain()
    assert b.scheduler.preemptions == 1
    assert young.generated == 6


def test_a_preempted_sequence_without_its_embeddings_stalls_until_it_is_supplied(bench: Bench) -> None:
    b = bench(blocks=4)
    b.add(7, max_tokens=6)
    b.step()
    young = b.sequence(7, max_tokens=6, media=(ELSEWHERE,))
    assert b.scheduler.reserve(young)
    b.receive(young)
    while not b.scheduler.preemptions:
        b.step()
    assert b.scheduler.stalled() == (young,)
    assert b.scheduler.waiting == 0, "a block would not help it"
    for _ in range(10):
        assert "2" not in [request for request, _, _ in shape(b.step()[0])]
    b.scheduler.release(OperationKey("1"))
    b.scheduler.supply(young.key, (HERE,))
    assert b.scheduler.stalled() == ()
    b.drain()
    assert young.generated == 6
    b.scheduler.supply(young.key, (HERE,))  # nobody needs it any more
    assert b.scheduler.waiting == 0


def test_a_reservation_leaves_a_stalled_answer_its_blocks(bench: Bench) -> None:
    b = bench(blocks=6)
    b.add(15, max_tokens=6)
    b.step()
    stalled = b.sequence(7, max_tokens=6, media=(ELSEWHERE,))
    assert b.scheduler.reserve(stalled)
    b.receive(stalled)
    while not b.scheduler.preemptions:
        b.step()
    assert b.scheduler.stalled() == (stalled,)
    b.scheduler.release(OperationKey("1"))
    assert (b.scheduler.pool.free_count, len(stalled.token_ids)) == (6, 9)
    assert not b.scheduler.reserve(b.sequence(13))
    assert b.scheduler.reserve(b.sequence(12))
    b.scheduler.supply(stalled.key, (HERE,))
    b.drain()
    assert stalled.generated == 6


def test_a_reservation_takes_the_blocks_of_the_prompt_or_nothing(bench: Bench) -> None:
    b = bench(blocks=3)
    first, second = b.sequence(8), b.sequence(5)
    assert b.scheduler.reserve(first)
    assert not b.scheduler.reserve(second)
    assert (len(first.blocks), second.blocks, b.scheduler.pool.free_count) == (2, [], 1)
    assert second.key not in b.scheduler
    b.receive(first)
    assert shape(b.step()[0]) == [("1", 8, 1)]
    assert len(first.blocks) == 3


@pytest.mark.parametrize("state", ["waiting", "running", "stalled", "parked", "reserved"])
def test_release_frees_a_sequence_in_any_state_once(bench: Bench, state: str) -> None:
    b = bench(blocks=4)
    match state:
        case "waiting":
            sequence = b.add(4)
        case "running":
            sequence = b.add(4)
            b.step()
        case "parked":
            sequence = b.add(4)
            b.step()
            b.scheduler.park(sequence.key)
            assert not b.step()[0]
            assert len(sequence.blocks) == 1
        case "stalled":
            b.add(7, max_tokens=6)
            b.step()
            sequence = b.sequence(7, media=(ELSEWHERE,), max_tokens=6)
            b.scheduler.reserve(sequence)
            b.receive(sequence)
            while not b.scheduler.preemptions:
                b.step()
            b.scheduler.release(OperationKey("1"))
        case _:
            sequence = b.sequence(4)
            b.scheduler.reserve(sequence)
    assert sequence.key in b.scheduler
    assert b.scheduler.find(sequence.key) is sequence
    assert b.scheduler.release(sequence.key)
    assert not b.scheduler.release(sequence.key)
    assert sequence.key not in b.scheduler
    assert b.scheduler.find(sequence.key) is None
    assert b.scheduler.pool.free_count == 4
    b.scheduler.check_integrity()


def test_parking_what_is_not_there_does_nothing(bench: Bench) -> None:
    b = bench()
    b.scheduler.park(OperationKey("?"))
    assert list(b.scheduler.sequences()) == []


@pytest.mark.parametrize(
    ("params", "tokens", "reason"),
    [
        ({"ignore_eos": False}, [9, 10, 0], FinishReason.STOP),
        ({"ignore_eos": True}, [9, 10, 0, 1, 2], FinishReason.LENGTH),
        ({"stop_token_ids": (10,)}, [9, 10], FinishReason.STOP),
        ({"stop_token_ids": (0,)}, [9, 10, 0], FinishReason.STOP),
        ({"stop_token_ids": (5,)}, [9, 10, 0, 1, 2], FinishReason.LENGTH),
    ],
)
def test_why_an_answer_ends(bench: Bench, params: dict[str, Any], tokens: list[int], reason: FinishReason) -> None:
    b = bench()
    sequence = b.add(3, max_tokens=5, **params)
    *_, last = b.drain()
    assert sequence.token_ids[3:] == tokens
    assert (last.finish_reason, sequence.finish_reason) == (reason, reason)


@pytest.mark.parametrize("rows", range(1, 12))
def test_only_blocks_that_are_full_are_found(bench: Bench, rows: int) -> None:
    b = bench(max_batch_tokens=rows)
    first = b.add(12, family=5)
    b.step()
    b.scheduler.release(first.key)
    second = b.add(12, family=5)
    b.step()
    assert second.cached_tokens == min(8, rows // 4 * 4)
    b.drain()
    assert second.generated == 4


def test_two_that_begin_alike_at_the_same_time_compute_it_twice_and_one_of_them_is_found(bench: Bench) -> None:
    b = bench(blocks=12, max_batch_tokens=40)
    both = [b.add(9, family=5) for _ in range(2)]
    assert b.step()[0].tokens == 18
    third = b.add(9, family=5)
    b.step()
    assert [s.cached_tokens for s in (*both, third)] == [0, 0, 8]
    assert third.blocks[:2] == both[0].blocks[:2]
    assert set(both[0].blocks).isdisjoint(both[1].blocks)
    b.drain()
    assert b.scheduler.pool.held_count == 0


def test_what_is_written_from_outside_is_found_once_it_is_there(bench: Bench) -> None:
    b = bench(blocks=12)
    received = b.sequence(9, family=5)
    b.scheduler.reserve(received)
    early = b.add(9, family=5)
    b.step()
    b.scheduler.release(early.key)
    other = b.sequence(9, family=5)  # nobody else may hold what a transfer writes, whatever is known already
    b.scheduler.reserve(other)
    assert set(other.blocks).isdisjoint(early.blocks)
    assert set(other.blocks).isdisjoint(received.blocks)
    b.receive(received)
    b.receive(other)
    late = b.add(9, family=5)
    b.step()
    assert (early.cached_tokens, late.cached_tokens) == (0, 8)
    b.drain()


def test_an_answer_ends_where_the_context_does(bench: Bench) -> None:
    b = bench(blocks=2)
    sequence = b.add(6, max_tokens=100)
    *_, last = b.drain()
    assert (len(sequence.token_ids), last.finish_reason) == (8, FinishReason.LENGTH)


def test_what_could_be_computed_now_is_counted(bench: Bench) -> None:
    b = bench(blocks=3)
    assert b.scheduler.runnable == 0
    b.add(4, max_tokens=1)
    b.add(4, max_tokens=1)
    assert b.scheduler.runnable == 1, "the first of those that wait"
    reserved = b.sequence(12)
    assert b.scheduler.reserve(reserved)
    assert (b.scheduler.waiting, b.scheduler.runnable) == (2, 0), "there are no blocks for it"
    b.scheduler.release(reserved.key)
    b.step()
    assert (b.scheduler.waiting, b.scheduler.runnable) == (0, 0), "both have ended"


def test_tokens_have_their_place_in_the_answer_and_what_was_answered_before_counts(bench: Bench) -> None:
    b = bench()
    sequence = b.add(5, max_tokens=3)
    sequence.prompt_length = 4
    assert [[e.position for e in b.step()[1]] for _ in range(3)] == [[1], [2], [3]]


def test_what_has_lost_its_kv_is_computed_again_in_its_order(bench: Bench) -> None:
    b = bench(blocks=16)
    first, second, waits = b.add(9, max_tokens=6), b.add(5, max_tokens=6), b.add(7, max_tokens=2)
    ended = b.add(2, max_tokens=1)
    while not ended.finish_reason:
        b.step()
    b.scheduler.forget()
    b.written.clear()
    assert b.scheduler.pool.held_count == 0
    assert b.scheduler.running == 0
    b.scheduler.check_integrity()
    plan, _ = b.step()
    assert [s for s in plan.sequences if s in (first, second)] == [first, second]
    assert all(chunk.start == 0 for chunk in plan.prompts)
    b.scheduler.release(ended.key)
    b.drain()
    assert all(b.answer_is_right(s) and s.finish_reason for s in (first, second, waits))
    assert b.scheduler.preemptions == 0
