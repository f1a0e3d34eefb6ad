"""Answers whose experts do not fit together take turns: nobody starves, and no token depends on it."""

import gc
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.engine.plan import StepPlan
from triptych.engine.sequence import Goal, Sequence
from triptych.engine.turns import Turns

LAYERS, EXPERTS, TOP = 3, 32, 8
Bench = Callable[..., Any]


def family(place: int) -> npt.NDArray[np.int32]:
    """[layers, 1, top]: one of four families that share no expert."""
    first = TOP * (place % 4)
    return np.broadcast_to(np.arange(first, first + TOP, dtype=np.int32), (LAYERS, 1, TOP))


def run(turns: Turns, answers: tuple[Any, ...], routes: Callable[[Any], npt.NDArray[np.int32]]) -> tuple[Any, ...]:
    """One step."""
    chosen = turns.choose(answers)
    assert chosen
    assert chosen == tuple(a for a in answers if a in chosen)
    turns.learn(StepPlan(decodes=chosen), np.concatenate([routes(a) for a in chosen], axis=1), answers)
    return chosen


@pytest.fixture
def answers(bench: Bench) -> tuple[Sequence, ...]:
    made = bench()
    return tuple(made.sequence(2) for _ in range(8))


def test_two_families_take_turns(answers: tuple[Sequence, ...]) -> None:
    turns = Turns((TOP,) * LAYERS, EXPERTS, bound=3)
    place = {answer: index % 2 for index, answer in enumerate(answers)}
    steps = [run(turns, answers, lambda a: family(place[a])) for _ in range(13)]
    assert steps[0] == answers, "nothing is known of them"
    assert steps[1:] == ([answers[::2]] * 3 + [answers[1::2]] * 3) * 2


def test_where_all_fit_everybody_goes(answers: tuple[Sequence, ...]) -> None:
    turns = Turns((2 * TOP,) * LAYERS, EXPERTS)
    place = {answer: index % 2 for index, answer in enumerate(answers)}
    assert all(run(turns, answers, lambda a: family(place[a])) == answers for _ in range(9))


def test_whoever_comes_later_goes_along_at_once(answers: tuple[Sequence, ...]) -> None:
    turns = Turns((TOP,) * LAYERS, EXPERTS, bound=4)
    place = {answer: index % 2 for index, answer in enumerate(answers)}
    for _ in range(2):
        run(turns, answers[:6], lambda a: family(place[a]))
    assert run(turns, answers, lambda a: family(place[a])) == (*answers[:6:2], *answers[6:])


def test_a_turn_ends_with_its_last_answer(answers: tuple[Sequence, ...]) -> None:
    turns = Turns((TOP,) * LAYERS, EXPERTS, bound=4, step=1.0)
    place = {answer: index % 3 for index, answer in enumerate(answers)}
    for _ in range(2):
        run(turns, answers, lambda a: family(place[a]))
    for gone in answers[::3]:
        turns.forget(gone)
    rest = tuple(a for a in answers if a not in answers[::3])
    assert run(turns, rest, lambda a: family(place[a])) == answers[1::3]


def test_of_whoever_has_gone_nothing_is_kept(bench: Bench) -> None:
    made = bench()
    turns = Turns((TOP,) * LAYERS, EXPERTS, bound=4)
    gc.collect()
    of_others = sum(type(o) is Sequence for o in gc.get_objects())
    answers = tuple(made.sequence(2) for _ in range(4))
    place = {id(answer): index for index, answer in enumerate(answers)}
    for _ in range(3):
        run(turns, answers, lambda a: family(place[id(a)] % 2))
    late = made.sequence(2)
    turns.learn(StepPlan(decodes=(late,)), family(0), ())
    for answer in answers:
        turns.forget(answer)
    del answer, answers, late
    gc.collect()
    assert sum(type(o) is Sequence for o in gc.get_objects()) <= of_others


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bound=st.integers(1, 6),
    room=st.integers(1, EXPERTS),
    change=st.sampled_from([0.0, 0.1, 0.5]),
    step=st.sampled_from([-100.0, 0.0, 2.5]),  # below zero rounds are made that do not pay, too
)
def test_nobody_starves(seed: int, bound: int, room: int, change: float, step: float) -> None:
    """Answers come, change what they need, and go: each is in at least one of any `bound` + 1 steps of its life."""
    rng = random.Random(seed)
    turns = Turns((room,) * LAYERS, EXPERTS, bound=bound, step=step)
    needs: dict[Any, int] = {object(): rng.randrange(4) for _ in range(rng.randint(1, 9))}
    out: Counter[Any] = Counter()
    for _ in range(60):
        if rng.random() < change / 2:
            needs[object()] = rng.randrange(4)
        if len(needs) > 1 and rng.random() < change / 2:
            turns.forget(gone := rng.choice(list(needs)))
            del needs[gone], out[gone]
        chosen = run(turns, tuple(needs), lambda a: family(needs[a]))
        for answer in needs:
            out[answer] = 0 if answer in chosen else out[answer] + 1
            if rng.random() < change:
                needs[answer] = rng.randrange(4)
        assert max(out.values()) <= bound


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(st.integers(0, 3), min_size=2, max_size=12),
    bound=st.integers(1, 6),
    change=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_everybody_gets_as_many_steps(places: list[int], bound: int, change: float, seed: int) -> None:
    """But for `bound`, at any time, whatever they need."""
    turns, rng = Turns((TOP,) * LAYERS, EXPERTS, bound=bound, step=-100.0), random.Random(seed)
    needs: dict[Any, int] = {object(): place for place in places}
    done: Counter[Any] = Counter()
    for _ in range(80):
        done.update(run(turns, tuple(needs), lambda a: family(needs[a])))
        for answer in needs:
            if rng.random() < change:
                needs[answer] = rng.randrange(4)
        assert max(done.values()) - min(done[a] for a in needs) <= bound


@pytest.mark.parametrize("caching", [True, False])
def test_any_sequence_of_events(bench: Bench, seed: int, caching: bool) -> None:
    """The tokens are those of the model, whoever comes, goes, is preempted, or is left out of a step."""
    rng = random.Random(seed)
    preemptions = left_out = 0
    for _ in range(30):
        turns = Turns((TOP,) * LAYERS, EXPERTS, bound=rng.randint(1, 4), step=0.0)
        made = bench(
            rng.randint(6, 12), rng.randint(1, 3), rng.randint(2, 9), 5, caching, turns=turns, routes=_routes
        )
        for _ in range(60):
            if rng.random() < 0.4:
                goal = rng.choice([Goal.ANSWER, Goal.ANSWER, Goal.FIRST_TOKEN])
                made.add(
                    rng.randint(1, min(5, made.capacity - 2)), rng.randint(2, 12), family=rng.randrange(3), goal=goal
                )
            plan = made.scheduler.schedule()
            result = made.run(plan)
            left_out += len(plan.decodes) < sum(s.pending == 1 for s in made.scheduler.sequences() if s.blocks)
            known = list(made.scheduler.sequences())
            if known and rng.random() < 0.1:
                made.scheduler.release(rng.choice(known).key)
            following = made.scheduler.prepare(plan)
            assert all(len(s.token_ids) < len(s.blocks) * made.block_size for s in following)
            for item in made.scheduler.commit(plan, result):
                if item.finish_reason is not None or item.sequence.goal is Goal.FIRST_TOKEN:
                    assert made.answer_is_right(item.sequence)
                    made.scheduler.release(item.sequence.key)
            made.scheduler.check_integrity()
        made.drain()
        assert made.scheduler.pool.held_count == 0
        preemptions += made.scheduler.preemptions
    assert preemptions
    assert left_out


def _routes(sequence: Sequence) -> npt.NDArray[np.int32]:
    return family(int(sequence.key.request_id))


def test_prompts_leave_nobody_out(bench: Bench) -> None:
    made = bench(64, 4, turns=Turns((TOP,) * LAYERS, EXPERTS, bound=3, step=-100.0), routes=_routes)
    answers = [made.add(2, max_tokens=40) for _ in range(4)]
    for _ in range(4):
        plan, _ = made.step()
    assert len(plan.decodes) == 1
    made.add(9)
    plan, _ = made.step()
    assert plan.prompts
    assert set(plan.decodes) == set(answers)
