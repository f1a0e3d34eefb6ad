"""What is concluded from what a worker sends, and from what it does not."""

from dataclasses import replace

import pytest

from triptych.core.fleet import Health, Introduction, Report, Stage, Worker
from triptych.core.fleet.breaker import Closed, Open, Probing
from triptych.core.fleet.observe import (
    Aged,
    DrainBegun,
    HealthLimits,
    Heard,
    Observation,
    Reported,
    WorkDone,
    WorkFailed,
    WorkSent,
    observe,
    reconnected,
)

LIMITS = HealthLimits(suspect=5.0, dead=10.0, stalled=30.0)
STILL = Report(steps=7, runnable=2)
INTRODUCTION = Introduction("D1", "process 1", Stage.DECODE, frozenset({Stage.PREFILL, Stage.DECODE}), 100, 16)


def fresh(now: float = 0.0, incarnation: str = "process 1") -> Worker:
    return Worker(replace(INTRODUCTION, incarnation=incarnation), heard=now, progressed=now)


def after(*seen: tuple[float, Observation], worker: Worker | None = None) -> Worker:
    worker = worker or fresh()
    for now, event in seen:
        worker = observe(worker, event, now, LIMITS)
    return worker


@pytest.mark.parametrize(
    ("silent", "health"),
    [(4.99, Health.HEALTHY), (5.0, Health.SUSPECT), (9.99, Health.SUSPECT), (10.0, Health.DEAD)],
)
def test_silence(silent: float, health: Health) -> None:
    assert after((silent, Aged())).health is health


def test_whoever_is_heard_again_in_time_is_trusted_again() -> None:
    suspect = after((9.0, Aged()))
    assert after((9.5, Heard()), worker=suspect).health is Health.HEALTHY
    assert after((9.5, Reported(Report())), worker=suspect).health is Health.HEALTHY


def test_a_stream_that_was_given_up_for_silence_is_not_taken_back() -> None:
    dead = after((10.0, Aged()))
    assert after((10.5, Heard()), (11.0, Aged()), worker=dead).health is Health.DEAD


def test_being_heard_all_the_time_is_no_news() -> None:
    worker = fresh()
    assert observe(worker, Heard(), 0.2, LIMITS) is worker
    assert observe(worker, Heard(), 0.3, LIMITS).heard == 0.3
    assert observe(worker, Aged(), 4.0, LIMITS) is worker


@pytest.mark.parametrize(
    ("still", "health"),
    [(14.9, Health.HEALTHY), (15.0, Health.SUSPECT), (29.9, Health.SUSPECT), (30.0, Health.DEAD)],
)
def test_a_worker_that_speaks_and_computes_nothing_stands_still(still: float, health: Health) -> None:
    heartbeats = [(second * 2.0, Reported(STILL)) for second in range(1, 15) if second * 2 < still]
    assert after((0.0, Reported(STILL)), *heartbeats, (still, Aged())).health is health


@pytest.mark.parametrize(
    "moved", [replace(STILL, steps=8), replace(STILL, runnable=0)], ids=["a step", "nothing to do"]
)
def test_a_step_or_nothing_to_compute_is_progress(moved: Report) -> None:
    suspect = after((0.0, Reported(STILL)), (16.0, Reported(STILL)))
    assert suspect.health is Health.SUSPECT
    assert (after((17.0, Reported(moved)), worker=suspect).health, suspect.progressed) == (Health.HEALTHY, 0.0)


def test_draining_is_for_good_and_either_side_may_say_so() -> None:
    asked = after((1.0, DrainBegun()), (2.0, Reported(Report(steps=9))), (8.0, Aged()))
    told = after((1.0, Reported(Report(draining=True))), (8.0, Aged()))
    assert (asked.health, told.health) == (Health.DRAINING, Health.DRAINING)
    assert after((20.0, Aged()), worker=asked).health is Health.DEAD


def test_the_breaker_follows_what_becomes_of_the_work() -> None:
    failing = after((1.0, WorkSent()), (1.0, WorkFailed()), (2.0, WorkFailed()))
    assert (failing.breaker, failing.accepts(2.0)) == (Closed(2), True)
    assert after((3.0, WorkDone()), worker=failing).breaker == Closed()
    opened = after((3.0, WorkFailed()), worker=failing)
    assert (opened.breaker, opened.accepts(4.9), opened.accepts(5.0)) == (Open(5.0, 1), False, True)
    assert opened.health is Health.HEALTHY
    probing = after((5.0, WorkSent()), worker=opened)
    assert (probing.breaker, probing.accepts(5.0)) == (Probing(5.0, 1), False)


def test_a_process_that_stood_still_is_suspected_until_it_moves() -> None:
    former = after((1.0, Reported(STILL)), (2.0, WorkFailed()))
    again = reconnected(former, fresh(20.0), LIMITS)
    assert (again.health, again.report, again.progressed, again.breaker) == (Health.SUSPECT, STILL, 1.0, Closed(1))
    assert after((20.1, Aged()), (21.0, Reported(STILL)), worker=again).health is Health.SUSPECT
    assert after((21.0, Reported(replace(STILL, steps=8))), worker=again).health is Health.HEALTHY
    assert after((21.0, Reported(replace(STILL, runnable=0))), worker=again).health is Health.HEALTHY


def test_a_process_that_hangs_is_dead_until_it_moves() -> None:
    former = after((1.0, Reported(STILL)))
    again = reconnected(former, fresh(31.0), LIMITS)
    assert again.health is Health.DEAD
    assert after((31.1, Aged()), (33.0, Reported(STILL)), worker=again).health is Health.DEAD
    assert after((33.0, Reported(replace(STILL, steps=8))), worker=again).health is Health.HEALTHY


def test_what_a_former_process_stood_still_at_is_gone_with_it() -> None:
    former = after((1.0, Reported(STILL)), (2.0, WorkFailed()))
    new = fresh(31.0, "process 2")
    assert reconnected(former, new, LIMITS) is new


def test_a_process_that_had_nothing_to_compute_is_trusted_at_once() -> None:
    former = after((1.0, Reported(Report(steps=7))), (2.0, WorkFailed()))
    again = reconnected(former, fresh(60.0), LIMITS)
    assert (again.health, again.progressed, again.breaker) == (Health.HEALTHY, 60.0, Closed(1))


def test_kv_use_is_a_share_of_the_pool() -> None:
    assert replace(fresh(), report=Report(held_blocks=25)).kv_use == 0.25
    assert Worker(Introduction("E1", "p", Stage.ENCODE, frozenset({Stage.ENCODE}))).kv_use == 0.0
