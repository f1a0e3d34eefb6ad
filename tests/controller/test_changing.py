"""Draining, scaling, replacing and taking over, with a fake runtime and a fake router."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from triptych.controller.controller import Controller, Terms
from triptych.controller.testing import crash, started
from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound
from triptych.core.fleet import Stage
from triptych.core.reconcile import Policy

TERMS = Terms("tiny", drain_seconds=7.0, policy=Policy(first_delay=0.0))

Make = Callable[..., Any]


async def test_a_drained_worker_ends_once_nothing_runs_there_and_is_published_no_more(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("1P2D"), front, TERMS)) as controller:
        front.running = {"decode-1": 1}
        await controller.drain("decode-1", None)
        await front.wait_until(lambda: front.drained)
        assert front.drained == [("decode-1", 7.0)]
        assert front.published[-1]["decode-1"].address
        assert runtime.placed[2].stops == 0
        front.running = {}
        known = await front.wait_for(lambda known: "decode-1" not in known)
        assert known.keys() == {"prefill-0", "decode-0"}
        assert [actor.stops for actor in runtime.placed] == [0, 0, 1]
    assert [actor.stops for actor in runtime.placed] == [1, 1, 1]
    assert len(runtime.placed) == 3


async def test_a_worker_that_is_drained_with_a_time_tells_the_router_that_time(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("2D"), front, TERMS)) as controller:
        front.running = {"decode-0": 1}
        await controller.drain("decode-0", 3.0)
        await front.wait_until(lambda: front.drained)
        await controller.drain("decode-0", 0.0)
        await front.wait_until(lambda: len(front.drained) == 2)
        assert front.drained == [("decode-0", 3.0), ("decode-0", 0.0)]


async def test_scaling_adds_workers_like_the_others_and_takes_them_out(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    ready: list[str] = []
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS, ready.append)) as controller:
        assert await controller.scale(Stage.DECODE, 3) == (("decode-1", "decode-2"), ())
        known = await front.wait_for(lambda known: len(known) == 3 and all(a.address for a in known.values()))
        assert known["decode-2"].address == "decode-2:3"
        assert ready == ["decode-0", "decode-1", "decode-2"]
        front.running = {"decode-1": 1}
        await front.wait_until(lambda: front.asked > 2)
        assert await controller.scale(Stage.DECODE, 1) == ((), ("decode-2", "decode-0"))
        await front.wait_for(lambda known: known.keys() == {"decode-1"})


async def test_what_cannot_be_is_refused_and_changes_nothing(runtime: Any, front: Any, make_blueprint: Make) -> None:
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS)) as controller:
        with pytest.raises(NotFound):
            await controller.drain("decode-1", None)
        with pytest.raises(FailedPrecondition, match="decode-0 is the last worker that can decode"):
            await controller.drain("decode-0", None)
        with pytest.raises(FailedPrecondition, match="reads text only"):
            await controller.scale(Stage.ENCODE, 1)
        with pytest.raises(InvalidArgument):
            await controller.scale(Stage.DECODE, 2000)
        assert (len(runtime.placed), front.drained) == (1, [])


async def test_workers_that_do_not_fit_are_not_added(runtime: Any, front: Any, make_blueprint: Make) -> None:
    def require_room(workers: tuple[Any, ...]) -> None:
        if len(workers) > 1:
            raise FailedPrecondition("2 workers need about 2 MiB; 1 MiB are available")

    terms = Terms("tiny", require_room=require_room)
    async with started(Controller(runtime, make_blueprint("1D"), front, terms)) as controller:
        with pytest.raises(FailedPrecondition, match="1 MiB are available"):
            await controller.scale(Stage.DECODE, 3)
        assert await controller.scale(Stage.DECODE, 2) == (("decode-1",), ())


async def test_one_that_cannot_start_keeps_nobody_else_from_starting(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS)) as controller:
        runtime.errors["decode-1"] = [ZeroDivisionError("a defect")] * 3
        await controller.scale(Stage.DECODE, 3)
        known = await front.wait_for(lambda known: len(known) == 3 and all(a.address for a in known.values()))
        assert {worker: address.restarts for worker, address in known.items()} == {
            "decode-0": 0,
            "decode-1": 3,
            "decode-2": 0,
        }


async def test_a_worker_that_the_router_has_given_up_is_killed_and_replaced(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    terms = Terms("tiny", policy=Policy(hung_after=0.02))
    async with started(Controller(runtime, make_blueprint("2D"), front, terms)):
        front.dead = {"decode-1"}
        await front.wait_for(lambda known: known["decode-1"].restarts == 1)
        front.dead = set()
        known = await front.wait_for(lambda known: known["decode-1"].address)
        assert (known["decode-1"].restarts, known["decode-0"].restarts) == (1, 0)
        assert [(actor.kills, actor.stops) for actor in runtime.placed][:2] == [(0, 0), (1, 0)]


async def test_another_controller_takes_over_what_runs_and_starts_what_is_missing(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    first = Controller(runtime, make_blueprint("1P2D"), front, TERMS)
    await first.start()
    runtime.placed[2].die()
    await front.wait_for(lambda known: known["decode-1"].restarts and known["decode-1"].address)
    await crash(first)
    await first.stop()
    runtime.placed[0].die()
    ready: list[str] = []
    async with started(Controller(runtime, make_blueprint("1P2D"), front, TERMS, ready.append)):
        assert front.published[-1]["decode-0"].address == "decode-0:2"
        assert (front.published[-1]["decode-1"].address, front.published[-1]["decode-1"].restarts) == (
            "decode-1:4",
            1,
        )
        assert front.published[-1]["prefill-0"].address == "prefill-0:5"
        assert ready[-1] == "prefill-0"
        assert set(ready) == {"prefill-0", "decode-0", "decode-1"}
        runtime.placed[1].die()
        await front.wait_for(lambda known: known["decode-0"].address == "decode-0:6")
    assert len(runtime.placed) == 6
    assert all(not actor.alive for actor in runtime.placed)


async def test_workers_of_other_settings_or_of_another_layout_are_ended_and_not_taken_over(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    first = Controller(runtime, make_blueprint("2D"), front, TERMS)
    await first.start()
    await crash(first)
    async with started(Controller(runtime, make_blueprint("1D", context_length=32), front, TERMS)):
        assert [(actor.worker_id, actor.stops) for actor in runtime.placed] == [
            ("decode-0", 1),
            ("decode-1", 1),
            ("decode-0", 0),
        ]


async def test_where_others_serve_already_one_that_cannot_start_is_tried_again_later(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    first = Controller(runtime, make_blueprint("1P1D"), front, TERMS)
    await first.start()
    await crash(first)
    runtime.placed[0].die()
    runtime.errors["prefill-0"] = [RuntimeError("no node has room")]
    async with started(Controller(runtime, make_blueprint("1P1D"), front, TERMS)):
        await front.wait_for(lambda known: known["prefill-0"].address)
        assert runtime.placed[1].stops == 0


async def test_another_router_is_told_of_the_workers_and_drains_them(
    runtime: Any, front: Any, make_front: Make, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("2D"), front, TERMS)) as controller:
        second, published = make_front(), len(front.published)
        await controller.attach(second)
        assert second.published == [front.published[-1]]
        second.running = {"decode-1": 1}
        await controller.drain("decode-1", 1.0)
        await second.wait_until(lambda: second.drained)
        runtime.placed[0].die()
        await second.wait_for(lambda known: known["decode-0"].restarts)
        assert (front.drained, len(front.published)) == ([], published)


async def test_another_router_is_told_of_a_drain_before_it_meets_the_worker(
    runtime: Any, front: Any, make_front: Make, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("2D"), front, TERMS)) as controller:
        front.running = {"decode-1": 1}
        await controller.drain("decode-1", 300.0)
        await front.wait_until(lambda: front.drained)
        second = make_front()
        second.running = {"decode-1": 1}
        await controller.attach(second)
        assert second.calls[:3] == ["take over", "drain", "place"]
        [(worker_id, left)] = second.drained
        assert (worker_id, len(front.drained)) == ("decode-1", 1)
        assert 290.0 < left <= 300.0
        assert runtime.placed[1].stops == 0


async def test_who_takes_a_cluster_over_says_so_to_the_router(
    runtime: Any, front: Any, make_front: Make, make_blueprint: Make
) -> None:
    first = Controller(runtime, make_blueprint("1D"), front, TERMS)
    await first.start()
    assert front.calls[0] == "place"
    second = make_front()
    await first.attach(second)
    assert second.calls == ["take over", "place"]
    await crash(first)
    third = make_front()
    async with started(Controller(runtime, make_blueprint("1D"), third, TERMS)):
        assert third.calls == ["take over", "place"]


async def test_a_router_that_fails_does_not_end_the_controller(
    runtime: Any, front: Any, make_blueprint: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS)):
        front.error = RuntimeError("closed")
        await front.wait_until(lambda: "could not do what an event asks for" in caplog.text)
        front.error = None
        runtime.placed[0].die()
        await front.wait_for(lambda known: known["decode-0"].address == "decode-0:2")


async def test_a_stop_while_workers_come_and_go_leaves_nothing(
    runtime: Any, front: Any, make_blueprint: Make
) -> None:
    async with started(Controller(runtime, make_blueprint("2D"), front, TERMS)) as controller:
        front.running = {"decode-0": 1}
        await controller.drain("decode-0", 100.0)
        runtime.at_once = False
        await controller.scale(Stage.DECODE, 3)
        await front.wait_until(lambda: len(runtime.placed) == 4)
    assert [actor.stops for actor in runtime.placed] == [1, 1, 1, 1]
    await asyncio.sleep(0)
    assert len(runtime.placed) == 4
