"""Several schedulers behind one face: who goes where, and whatever comes in whatever order."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from triptych.core.errors import ResourceExhausted
from triptych.core.generation import OperationKey, PositionLogprobs
from triptych.engine.lane_plans import by_lane, whole
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.sequence import Goal, Media, Sequence

LANES = 3


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.mark.parametrize("lanes", [2, LANES])
@pytest.mark.parametrize("caching", [True, False])
def test_any_sequence_of_events(bench: Callable[..., Any], rng: random.Random, lanes: int, caching: bool) -> None:
    preemptions = 0
    for _ in range(40):
        made = bench(rng.randint(4, 9), rng.randint(1, 3), rng.randint(1, 9), rng.randint(2, 5), caching, lanes=lanes)
        events(made, rng)
        preemptions += made.scheduler.preemptions
    assert preemptions


def events(made: Any, rng: random.Random) -> None:
    """Sequences come, are reserved, start, are parked, supplied and released, also while a step computes."""
    scheduler, reserved, parked = made.scheduler, list[Sequence](), set[Sequence]()
    for _ in range(60):
        arrive(made, rng, reserved)
        plan = scheduler.schedule()
        result = made.run(plan)
        if (known := [s for s in scheduler.sequences() if s not in reserved]) and rng.random() < 0.2:
            leave(scheduler, rng, rng.choice(known), parked)
        following = scheduler.prepare(plan)
        assert all(len(s.token_ids) < len(s.blocks) * made.block_size for s in following)
        parked |= {e.sequence for e in scheduler.commit(plan, result) if ended(e)}
        scheduler.check_integrity()
        assert all(made.answer_is_right(sequence) for sequence in scheduler.sequences())
        supply(scheduler)
    for sequence in list(scheduler.sequences()):
        if sequence in parked or sequence in reserved:
            scheduler.release(sequence.key)
    if rng.random() < 0.5:
        scheduler.forget()
        assert scheduler.pool.held_count == 0
    finish(made)


def arrive(made: Any, rng: random.Random, reserved: list[Sequence]) -> None:
    longest = made.capacity - 2
    match rng.randrange(8):
        case 0 | 1 | 2:
            media = (Media(0, 1, torch.zeros(1, 2), "a"),) if rng.random() < 0.2 else ()
            goal = rng.choice([Goal.ANSWER, Goal.ANSWER, Goal.FIRST_TOKEN])
            length = rng.randint(1, min(9, longest))
            made.add(length, rng.randint(2, 12), family=rng.randrange(3), goal=goal, media=media)
        case 3:
            sequence = made.sequence(rng.randint(1, min(6, longest)), 4, media=(Media(0, 1, None, "b"),))
            if made.scheduler.reserve(sequence):
                reserved.append(sequence)
        case 4 if reserved:
            made.receive(reserved.pop())


def leave(scheduler: Any, rng: random.Random, sequence: Sequence, parked: set[Sequence]) -> None:
    if rng.random() < 0.5 and sequence not in parked:
        scheduler.park(sequence.key)
        parked.add(sequence)
    else:
        assert scheduler.release(sequence.key)


def supply(scheduler: Any) -> None:
    for sequence in scheduler.stalled():
        scheduler.supply(sequence.key, (Media(0, 1, torch.zeros(1, 2), "b"),))


def finish(made: Any) -> None:
    scheduler = made.scheduler
    for _ in range(3000):
        if not list(scheduler.sequences()):
            break
        supply(scheduler)
        for emitted in made.step()[1]:
            if ended(emitted):
                assert made.answer_is_right(emitted.sequence)
                scheduler.release(emitted.sequence.key)
    scheduler.check_integrity()
    assert scheduler.pool.held_count == 0
    assert scheduler.pool.free_count == scheduler.pool.count == made.blocks * made.lanes


def ended(emitted: Any) -> bool:
    return emitted.finish_reason is not None or emitted.sequence.goal is Goal.FIRST_TOKEN


def test_a_sequence_goes_where_least_is_to_do(bench: Callable[..., Any]) -> None:
    made = bench(64, 4, lanes=LANES)
    scheduler = made.scheduler
    sequences = [made.add(length) for length in (30, 10, 15, 10, 1, 30)]
    assert [scheduler.lane(sequence.key) for sequence in sequences] == [0, 1, 2, 2 - 1, 2, 2]
    scheduler.release(sequences[0].key)
    assert scheduler.lane(sequences[0].key) is None
    assert scheduler.lane(made.add(5).key) == 0


def test_a_known_beginning_is_worth_its_tokens_and_no_more(bench: Callable[..., Any]) -> None:
    made = bench(64, 4, max_batch_tokens=64, lanes=2)
    scheduler = made.scheduler
    made.add(1)
    first = made.add(20, family=5)  # in lane 1; its KV stays when it is gone
    made.drain()
    assert first.finish_reason
    made.add(14)
    assert scheduler.lane(made.add(22, family=5).key) == 1
    assert scheduler.lane(made.add(2).key) == 1
    made.add(30)
    assert scheduler.kv.hit_tokens == 0
    made.step()
    assert scheduler.kv.hit_tokens == 20


def test_blocks_are_reserved_in_a_lane_that_has_them(bench: Callable[..., Any]) -> None:
    made = bench(4, 4, lanes=2)
    scheduler, reserved = made.scheduler, [made.sequence(10), made.sequence(3), made.sequence(12), made.sequence(8)]
    assert [scheduler.reserve(sequence) for sequence in reserved] == [True, True, True, False]
    assert [scheduler.lane(sequence.key) for sequence in reserved] == [0, 1, 1, None]
    assert reserved[0].blocks == [0, 1, 2]
    assert reserved[1].blocks == [4]
    assert reserved[2].blocks == [5, 6, 7]
    assert scheduler.pool.free_count == 1
    with pytest.raises(ResourceExhausted, match="17 tokens do not fit the KV cache, which holds 16"):
        made.add(16)
    assert len(list(scheduler.sequences())) == 3
    scheduler.check_integrity()


def test_nobody_is_asked_about_who_is_not_there(bench: Callable[..., Any]) -> None:
    scheduler, key = bench(lanes=2).scheduler, OperationKey("nobody")
    scheduler.start(key)
    scheduler.park(key)
    scheduler.supply(key, ())
    assert scheduler.find(key) is None
    assert key not in scheduler
    assert not scheduler.release(key)
    assert not scheduler.schedule()


def test_results_are_divided_and_put_together(bench: Callable[..., Any]) -> None:
    made = bench(64, 4, max_batch_tokens=8, lanes=LANES)
    for length in (20, 3, 5, 6, 2, 9):
        made.add(length, 40)
    plans: list[StepPlan] = [made.scheduler.schedule()]
    while not (plans[-1].decodes and any(chunk.samples for chunk in plans[-1].prompts)):
        made.scheduler.commit(plans[-1], made.run(plans[-1]))
        plans.append(made.scheduler.schedule())
    mixed = plans[-1]
    count = len(mixed.sampling)
    result = StepResult(list(range(100, 100 + count)), {1: PositionLogprobs(-1.0), count - 1: PositionLogprobs(-2.0)})
    parts = by_lane(mixed, result)
    assert whole(mixed, parts) == result
    assert sorted(token for part in parts for token in part.token_ids) == result.token_ids
