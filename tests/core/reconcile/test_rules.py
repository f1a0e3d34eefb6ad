"""Each rule, with the smallest cluster that shows it."""

from collections.abc import Callable
from typing import Any

import pytest

from triptych.core.fleet import Health, Stage
from triptych.core.reconcile import (
    Backoff,
    Died,
    Drain,
    Draining,
    Heard,
    Kill,
    Policy,
    Serving,
    Silent,
    Start,
    Started,
    StartFailed,
    Stop,
    Stopped,
    drain,
    drains,
    scale,
    wake_at,
)

Make = Callable[..., Any]


def state(world: Any, worker_id: str) -> Any:
    return world.roster.workers[worker_id].state


def test_everything_missing_is_started_at_once(make_world: Make) -> None:
    world = make_world(running=False, encode=1, decode=2)
    assert world.turn() == (Start("encode-0", 0), Start("decode-0", 0), Start("decode-1", 0))
    assert world.turn() == ()
    world.finish()
    assert all(isinstance(worker.state, Serving) for worker in world.roster.workers.values())


def test_a_dead_worker_is_put_away_before_it_is_started_again(make_world: Make) -> None:
    world = make_world(decode=1)
    assert world.die("decode-0") == (Stop("decode-0"),)
    assert world.turn() == ()
    assert world.finish_one() == (Start("decode-0", 1),)


def test_one_that_keeps_dying_waits_longer_each_time_and_disturbs_nobody(make_world: Make) -> None:
    world = make_world(decode=2)
    world.die("decode-0")
    for delay in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        world.finish(fails=lambda event: event.worker_id == "decode-0")
        assert state(world, "decode-0") == Backoff(world.now + delay)
        assert wake_at(world.roster) == world.now + delay
        world.now += delay
        [start] = world.turn()
        assert start.worker_id == "decode-0"
    assert isinstance(state(world, "decode-1"), Serving)
    world.finish()
    assert isinstance(state(world, "decode-0"), Serving)
    assert world.roster.workers["decode-0"].history.total == 9


def test_events_of_an_earlier_attempt_change_nothing(make_world: Make) -> None:
    world = make_world(decode=1)
    world.die("decode-0")
    world.finish()
    before = world.roster
    for late in (Died("decode-0", 0), Started("decode-0", 0), StartFailed("decode-0", 0), Stopped("decode-0")):
        assert world.turn(late) == ()
        assert world.roster == before
    assert world.turn(Died("decode-7", 0)) == ()


def test_a_superfluous_worker_is_drained_then_stopped_then_forgotten(make_world: Make) -> None:
    world = make_world(decode=2)
    world.requests = {"decode-0": 3, "decode-1": 1}
    world.hear()
    world.roster, started, drained = scale(world.roster, Stage.DECODE, 1, 20.0)
    assert (started, drained) == ((), ("decode-1",))
    assert world.turn() == (Drain("decode-1", 20.0),)
    assert world.hear() == ()
    del world.requests["decode-1"]
    assert world.hear() == (Stop("decode-1"),)
    world.finish()
    assert list(world.roster.workers) == ["decode-0"]


def test_what_does_not_drain_is_stopped_a_little_after_its_time(make_world: Make) -> None:
    world = make_world(decode=2, policy=Policy(drain_grace=5.0))
    world.requests = {"decode-1": 1}
    world.roster = drain(world.roster, "decode-1", 20.0)
    world.turn()
    assert wake_at(world.roster) == 25.0
    world.now = 24.9
    assert world.hear() == ()
    world.now = 25.0
    assert world.hear() == (Stop("decode-1"),)


def test_asked_again_the_newer_time_counts(make_world: Make) -> None:
    world = make_world(decode=2)
    world.requests = {"decode-1": 1}
    world.roster = drain(world.roster, "decode-1", 100.0)
    world.turn()
    world.now = 10.0
    world.roster = drain(world.roster, "decode-1", 0.0)
    assert world.turn() == (Drain("decode-1", 0.0),)
    assert state(world, "decode-1") == Draining(0.0, 20.0)
    world.roster = drain(world.roster, "decode-1", 0.0)
    assert world.turn() == ()


def test_another_router_hears_what_is_left_of_a_drain(make_world: Make) -> None:
    world = make_world(decode=3, policy=Policy(drain_grace=5.0))
    world.requests = {"decode-1": 1}
    world.roster = drain(world.roster, "decode-1", 20.0)
    world.turn()
    for now, left in ((8.0, 12.0), (23.0, 0.0)):
        assert drains(world.roster, now, world.policy) == (Drain("decode-1", left),)
    del world.requests["decode-1"]
    world.hear()
    assert drains(world.roster, 8.0, world.policy) == ()


def test_the_last_one_that_serves_waits_for_another_before_it_is_drained(make_world: Make) -> None:
    world = make_world(decode=2)
    world.die("decode-1")
    world.roster = drain(world.roster, "decode-0", 1.0)
    assert world.turn() == ()
    assert isinstance(state(world, "decode-0"), Serving)
    world.finish()
    assert Drain("decode-0", 1.0) in world.done
    world.settle()
    assert list(world.roster.workers) == ["decode-1"]


def test_two_that_are_to_leave_do_not_rely_on_each_other(make_world: Make) -> None:
    world = make_world(decode=3)
    world.die("decode-2")
    world.roster = drain(drain(world.roster, "decode-0", 1.0), "decode-1", 1.0)
    assert world.turn() == ()
    world.finish()
    assert world.done[-2:] == [Drain("decode-1", 1.0), Drain("decode-0", 1.0)]


def test_one_that_only_starts_or_waits_is_let_go_at_once(make_world: Make) -> None:
    world = make_world(running=False, decode=3)
    world.turn()
    world.roster, _, drained = scale(world.roster, Stage.DECODE, 2, 1.0)
    assert drained == ("decode-2",)
    assert world.turn() == (Stop("decode-2"),)
    world.finish(fails=lambda event: event.worker_id == "decode-1")
    world.die("decode-1") if "decode-1" in world.actors else None
    world.finish(fails=lambda event: True)
    assert isinstance(state(world, "decode-1"), Backoff)
    world.roster = drain(world.roster, "decode-1", 1.0)
    assert world.turn() == ()
    assert list(world.roster.workers) == ["decode-0"]


def test_one_that_dies_while_it_is_drained_does_not_come_back(make_world: Make) -> None:
    world = make_world(decode=2)
    world.requests = {"decode-1": 1}
    world.roster = drain(world.roster, "decode-1", 20.0)
    world.turn()
    assert world.die("decode-1") == (Stop("decode-1"),)
    world.settle()
    assert list(world.roster.workers) == ["decode-0"]


def test_one_that_the_router_does_not_hear_is_killed_after_a_while(make_world: Make) -> None:
    world = make_world(decode=1)
    world.now, world.unheard = 100.0, {"decode-0"}
    assert world.hear() == ()
    assert state(world, "decode-0") == Silent(0.0, 100.0, 130.0)
    assert wake_at(world.roster) == 130.0
    world.now = 129.9
    assert world.hear() == ()
    world.now = 130.0
    assert world.turn() == (Kill("decode-0"),)
    world.finish()
    assert isinstance(state(world, "decode-0"), Serving)
    assert world.roster.workers["decode-0"].history.total == 1


def test_one_that_is_heard_and_stands_still_has_had_its_time_already(make_world: Make) -> None:
    world = make_world(decode=1)
    world.now, world.dead = 100.0, {"decode-0"}
    assert world.hear() == ()
    assert state(world, "decode-0") == Silent(0.0, 100.0, 105.0)
    world.now = 104.0
    assert world.hear() == ()
    world.now = 105.0
    assert world.turn() == (Kill("decode-0"),)


@pytest.mark.parametrize(("back", "killed"), [(101.0, 106.0), (128.0, 130.0)])
def test_one_that_comes_back_and_still_stands_still_is_not_waited_for_twice(
    back: float, killed: float, make_world: Make
) -> None:
    world = make_world(decode=1)
    world.now, world.unheard, world.dead = 100.0, {"decode-0"}, {"decode-0"}
    world.hear()
    world.now, world.unheard = back, set()
    world.hear()
    assert wake_at(world.roster) == killed
    world.now += 1.0
    world.hear()
    assert wake_at(world.roster) == killed
    world.dead.clear()
    world.hear()
    assert isinstance(state(world, "decode-0"), Serving)


def test_one_that_comes_back_in_time_is_trusted_again_but_not_on_suspicion(make_world: Make) -> None:
    world = make_world(decode=1)
    world.turn(Heard({}, {}))
    assert isinstance(state(world, "decode-0"), Silent)
    world.turn(Heard({"decode-0": Health.SUSPECT}, {}))
    assert isinstance(state(world, "decode-0"), Silent)
    world.turn(Heard({"decode-0": Health.HEALTHY}, {}))
    assert isinstance(state(world, "decode-0"), Serving)
    world.turn(Heard({"decode-0": Health.SUSPECT}, {}))
    assert isinstance(state(world, "decode-0"), Serving)


def test_one_that_an_earlier_controller_has_drained_is_replaced(make_world: Make) -> None:
    world = make_world(decode=1)
    assert world.turn(Heard({"decode-0": Health.DRAINING}, {"decode-0": 1})) == ()
    assert world.turn(Heard({"decode-0": Health.DRAINING}, {})) == (Stop("decode-0"),)
    world.finish()
    assert isinstance(state(world, "decode-0"), Serving)
    assert world.roster.workers["decode-0"].history.total == 1


def test_hearing_nothing_new_changes_nothing(make_world: Make) -> None:
    world = make_world(decode=2)
    world.hear()
    before = world.roster
    world.hear()
    assert world.roster is before


def test_a_hung_worker_that_dies_is_simply_dead(make_world: Make) -> None:
    world = make_world(decode=1)
    world.dead = {"decode-0"}
    world.hear()
    assert world.die("decode-0") == (Stop("decode-0"),)
