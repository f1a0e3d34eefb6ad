"""The workers of one router: who may be sent work, who is given up, and what was dispatched to whom."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from triptych.core.fleet import Health, Introduction, Load, Report, Stage
from triptych.core.fleet.book import FleetBook
from triptych.core.fleet.breaker import THRESHOLD
from triptych.core.fleet.observe import DrainBegun, HealthLimits, Heard, Reported, WorkFailed

LIMITS = HealthLimits(suspect=5.0, dead=10.0, stalled=30.0)


def introduction(worker_id: str, incarnation: str = "process 1", blocks: int = 0) -> Introduction:
    return Introduction(worker_id, incarnation, Stage.DECODE, frozenset({Stage.DECODE}), blocks, 16)


def book(*worker_ids: str) -> FleetBook:
    fleet = FleetBook(LIMITS)
    for worker_id in worker_ids:
        fleet.connect(introduction(worker_id), 0.0)
    return fleet


def accepting(fleet: FleetBook, now: float) -> str:
    return " ".join(w.worker_id for w in fleet.snapshot(now).workers)


def test_only_healthy_and_proven_workers_are_in_the_snapshot() -> None:
    fleet = book("healthy", "suspect", "draining", "failing", "gone")
    for worker_id in ("healthy", "draining", "failing"):
        fleet.observe(worker_id, Heard(), 6.0)
    fleet.disconnect("gone")
    fleet.observe("draining", DrainBegun(), 6.0)
    for _ in range(THRESHOLD):
        fleet.observe("failing", WorkFailed(), 6.0)
    assert fleet.dead(6.0) == ()
    assert fleet.workers["suspect"].health is Health.SUSPECT
    assert accepting(fleet, 6.0) == "healthy"
    assert accepting(fleet, 8.0) == "healthy failing"


def test_a_worker_that_was_drained_before_its_router_came_gets_nothing() -> None:
    fleet = FleetBook(LIMITS)
    drained = replace(introduction("D1"), draining=True)
    fleet.connect(drained, 0.0)
    fleet.observe("D1", Heard(), 1.0)
    assert fleet.workers["D1"].health is Health.DRAINING
    assert accepting(fleet, 1.0) == ""
    fleet.observe("D1", Reported(Report(runnable=1)), 2.0)
    fleet.disconnect("D1")
    assert fleet.connect(drained, 3.0) is fleet.workers["D1"]
    assert fleet.workers["D1"].health is Health.DRAINING


def test_a_silent_worker_is_named_until_it_is_disconnected() -> None:
    fleet = book("silent", "heard")
    fleet.observe("heard", Heard(), 9.0)
    assert fleet.dead(9.9) == ()
    assert fleet.dead(10.0) == ("silent",)
    fleet.disconnect("silent")
    assert fleet.dead(11.0) == ()


def test_a_worker_that_hangs_is_given_up_once_and_gets_nothing_until_it_moves() -> None:
    fleet = book("D1")
    still = Report(steps=7, runnable=1)
    for second in range(0, 32, 2):
        fleet.observe("D1", Reported(still), float(second))
    assert fleet.dead(30.0) == ("D1",)  # although it was its report that came when its time was up
    assert fleet.dead(30.1) == ()
    fleet.disconnect("D1")
    for second in (32, 34, 36):
        fleet.connect(introduction("D1"), second)
        fleet.observe("D1", Reported(still), second + 0.5)
        assert (fleet.dead(second + 1.0), accepting(fleet, second)) == ((), "")
        fleet.disconnect("D1")
    fleet.connect(introduction("D1"), 38.0)
    fleet.observe("D1", Reported(Report(steps=8, runnable=1)), 38.5)
    assert accepting(fleet, 38.5) == "D1"


def test_a_new_process_is_trusted_whatever_the_old_one_did() -> None:
    fleet = book("D1")
    fleet.observe("D1", Reported(Report(runnable=1)), 0.0)
    assert fleet.dead(31.0) == ("D1",)
    fleet.disconnect("D1")
    fleet.connect(introduction("D1", "process 2"), 32.0)
    assert accepting(fleet, 32.0) == "D1"
    assert (fleet.current("D1", "process 1"), fleet.current("D1", "process 2")) == (False, True)


def test_only_workers_that_are_placed_are_remembered() -> None:
    fleet = book("D1")
    fleet.observe("D1", Reported(Report(runnable=1)), 0.0)
    fleet.disconnect("D1")
    fleet.retain(["D2"])
    fleet.connect(introduction("D1"), 1.0)
    assert accepting(fleet, 1.0) == "D1"


def test_the_smallest_kv_cache_counts() -> None:
    fleet = FleetBook(LIMITS)
    assert fleet.kv_tokens() is None
    for worker_id, blocks in (("E1", 0), ("D1", 200), ("D2", 50)):
        fleet.connect(introduction(worker_id, blocks=blocks), 0.0)
    assert fleet.kv_tokens() == 50 * 16


def test_a_sequence_fits_into_one_of_the_lanes_of_a_pool() -> None:
    fleet = FleetBook(LIMITS)
    fleet.connect(introduction("D1", blocks=50), 0.0)
    fleet.connect(replace(introduction("D2", blocks=160), lanes=4), 0.0)
    assert fleet.kv_tokens() == 40 * 16


NAMES = st.sampled_from(["D1", "D2", "D3"])
LOADS = st.dictionaries(NAMES, st.builds(Load, st.integers(1, 3), st.integers(0, 9), st.integers(0, 9)))


@given(st.lists(st.one_of(LOADS, NAMES), max_size=30))
def test_load_is_booked_whoever_is_connected(steps: list[dict[str, Load] | str]) -> None:
    fleet, booked = book("D1"), list[dict[str, Load]]()
    for step in steps:
        if isinstance(step, str):
            if step in fleet.workers:
                fleet.disconnect(step)
            else:
                fleet.connect(introduction(step), 0.0)
        elif booked and len(booked) % 2:
            fleet.rebook(booked.pop(), step)
            booked.append(step)
        else:
            fleet.rebook({}, step)
            booked.append(step)
        requests = Counter[str]()
        for load in booked:
            requests.update({worker_id: each.requests for worker_id, each in load.items()})
        assert {worker_id: load.requests for worker_id, load in fleet.loads().items()} == dict(requests)
        for worker_id, worker in fleet.workers.items():
            assert worker.load == fleet.loads().get(worker_id, Load())
    for load in booked:
        fleet.rebook(load, {})
    assert fleet.loads() == {}
