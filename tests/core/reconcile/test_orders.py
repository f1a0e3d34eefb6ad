"""Drain and scale by hand: who is chosen, what is refused, how new workers are called."""

from collections.abc import Callable
from typing import Any

import pytest

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound
from triptych.core.fleet import Stage
from triptych.core.reconcile import Drain, Start, drain, scale

Make = Callable[..., Any]


def test_the_least_loaded_goes_first_and_the_newest_among_equals(make_world: Make) -> None:
    world = make_world(decode=4)
    world.requests = {"decode-0": 2, "decode-1": 5, "decode-2": 2, "decode-3": 2}
    world.now = 1.0
    world.die("decode-0")
    world.finish()
    world.hear()
    _, _, leaving = scale(world.roster, Stage.DECODE, 1, 1.0)
    assert leaving == ("decode-0", "decode-3", "decode-2")


def test_what_does_not_serve_goes_before_what_does(make_world: Make) -> None:
    world = make_world(decode=3)
    world.requests = {"decode-1": 9}
    world.hear()
    world.die("decode-1")
    _, _, leaving = scale(world.roster, Stage.DECODE, 2, 1.0)
    assert leaving == ("decode-1",)


def test_new_workers_take_the_lowest_numbers_that_nobody_alive_has(make_world: Make) -> None:
    world = make_world(decode=3)
    world.requests = {"decode-1": 1}
    world.roster = drain(world.roster, "decode-1", 100.0)
    world.turn()
    world.roster, started, _ = scale(world.roster, Stage.DECODE, 4, 1.0)
    assert started == ("decode-3", "decode-4")
    assert world.turn() == (Start("decode-3", 0), Start("decode-4", 0))
    world.settle()
    world.roster, started, _ = scale(world.roster, Stage.DECODE, 5, 1.0)
    assert started == ("decode-1",)


def test_the_same_number_changes_nothing(make_world: Make) -> None:
    world = make_world(prefill=1, decode=2)
    assert scale(world.roster, Stage.DECODE, 2, 1.0) == (world.roster, (), ())


def test_a_stage_that_another_can_do_may_go_to_zero_and_come_back(make_world: Make) -> None:
    world = make_world(prefill=2, decode=1)
    world.roster, _, leaving = scale(world.roster, Stage.PREFILL, 0, 1.0)
    assert leaving == ("prefill-1", "prefill-0")
    assert world.turn() == (Drain("prefill-1", 1.0), Drain("prefill-0", 1.0))
    world.settle()
    assert list(world.roster.workers) == ["decode-0"]
    world.roster, started, _ = scale(world.roster, Stage.PREFILL, 1, 1.0)
    assert started == ("prefill-0",)


@pytest.mark.parametrize(
    ("layout", "worker_id"),
    [
        ({"decode": 1}, "decode-0"),
        ({"encode": 1, "decode": 2}, "encode-0"),
        ({"prefill": 1, "decode": 1}, "decode-0"),
    ],
)
def test_the_last_one_of_its_kind_cannot_be_drained(make_world: Make, layout: dict[str, int], worker_id: str) -> None:
    world, stage = make_world(**layout), Stage(worker_id.partition("-")[0])
    before = world.roster
    with pytest.raises(FailedPrecondition, match=f"{worker_id} is the last worker that can {stage}"):
        drain(world.roster, worker_id, 1.0)
    with pytest.raises(FailedPrecondition, match=f"is the last worker that can {stage}"):
        scale(world.roster, stage, 0, 1.0)
    assert world.roster == before


def test_two_drains_one_after_the_other_do_not_take_both(make_world: Make) -> None:
    world = make_world(decode=2)
    world.roster = drain(world.roster, "decode-0", 1.0)
    world.turn()
    with pytest.raises(FailedPrecondition):
        drain(world.roster, "decode-1", 1.0)


def test_unknown_workers_and_impossible_numbers_are_refused(make_world: Make) -> None:
    world = make_world(decode=2)
    with pytest.raises(NotFound, match="no worker 'decode-9'; there are decode-0, decode-1"):
        drain(world.roster, "decode-9", 1.0)
    for replicas in (-1, 1025):
        with pytest.raises(InvalidArgument, match=f"replicas must be 0 to 1024, got {replicas}"):
            scale(world.roster, Stage.DECODE, replicas, 1.0)


def test_what_is_drained_by_hand_is_not_brought_back_by_the_rules(make_world: Make) -> None:
    world = make_world(prefill=1, decode=2)
    world.roster = drain(world.roster, "decode-0", 0.0)
    world.settle()
    assert list(world.roster.workers) == ["prefill-0", "decode-1"]
    assert world.roster.desired.keys() == {"prefill-0", "decode-1"}
