"""The controller over a fake runtime: workers start, die, come back, and end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from triptych.controller.controller import Controller, Terms
from triptych.controller.testing import started
from triptych.core.errors import DataLoss, Unavailable
from triptych.core.reconcile import Policy

TERMS = Terms("tiny", policy=Policy(first_delay=0.0))


async def test_workers_start_together_and_their_addresses_are_published(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any]
) -> None:
    runtime.at_once = False
    ready: list[str] = []
    controller = Controller(runtime, make_blueprint("1E1P1D", vision=True), front, TERMS, ready.append)
    starting = asyncio.create_task(controller.start())
    await runtime.wait_for_placements(3)
    assert {address.address for address in front.published[-1].values()} == {""}
    encode, prefill, decode = runtime.placed
    for actor, count in ((decode, 1), (encode, 2), (prefill, 3)):
        assert not starting.done()
        actor.starts.set()
        await front.wait_for(lambda known, n=count: sum(bool(a.address) for a in known.values()) == n)
    await starting
    assert ready == ["decode-0", "encode-0", "prefill-0"]
    assert {w: (a.address, a.pid, a.restarts) for w, a in front.published[-1].items()} == {
        "encode-0": ("encode-0:1", 1, 0),
        "prefill-0": ("prefill-0:2", 2, 0),
        "decode-0": ("decode-0:3", 3, 0),
    }
    await controller.stop()
    assert [actor.stops for actor in runtime.placed] == [1, 1, 1]


async def test_a_dead_worker_is_started_again_and_its_new_address_published(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any]
) -> None:
    async with started(Controller(runtime, make_blueprint("1P1D"), front, TERMS)):
        published = len(front.published)
        runtime.placed[1].die()
        known = await front.wait_for(lambda known: known["decode-0"].restarts and known["decode-0"].address)
        assert (known["decode-0"].address, known["decode-0"].pid, known["decode-0"].restarts) == ("decode-0:3", 3, 1)
        assert known["prefill-0"].address == "prefill-0:1"
        assert front.published[published]["decode-0"].address == ""
        runtime.placed[2].die()
        known = await front.wait_for(lambda known: known["decode-0"].address == "decode-0:4")
        assert known["decode-0"].restarts == 2
    assert [actor.stops for actor in runtime.placed] == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [DataLoss("damaged"), ZeroDivisionError("a defect")])
async def test_a_restart_that_fails_is_tried_again(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any], error: Exception
) -> None:
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS)):
        runtime.errors["decode-0"] = [error, error]
        runtime.placed[0].die()
        known = await front.wait_for(lambda known: known["decode-0"].address == "decode-0:4")
        assert known["decode-0"].restarts == 3
        assert [actor.stops > 0 for actor in runtime.placed] == [True, True, True, False]
        runtime.place_errors = [Unavailable("no node"), RuntimeError("Ray is confused")]
        runtime.placed[3].die()
        await front.wait_for(lambda known: known["decode-0"].address == "decode-0:5")


async def test_a_first_start_that_fails_raises_and_leaves_nothing(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any]
) -> None:
    runtime.at_once = False
    runtime.errors["prefill-0"] = [DataLoss("the weights are damaged")]
    controller = Controller(runtime, make_blueprint("1P2D"), front, TERMS)
    starting = asyncio.create_task(controller.start())
    await runtime.wait_for_placements(3)
    prefill, first, second = runtime.placed
    first.starts.set()
    prefill.starts.set()
    with pytest.raises(DataLoss, match="the weights are damaged"):
        await starting
    await controller.stop()
    assert [actor.stops for actor in (prefill, first, second)] == [1, 1, 1]
    second.starts.set()
    first.die()
    published = len(front.published)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (len(runtime.placed), len(front.published)) == (3, published)


async def test_a_worker_that_cannot_be_placed_leaves_nothing(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any]
) -> None:
    place, count = runtime.place, iter((0, 1, 2))

    def refuse_the_third(worker: Any, attempt: int) -> Any:
        if next(count) == 2:
            raise Unavailable("no node has room")
        return place(worker, attempt)

    runtime.place = refuse_the_third
    controller = Controller(runtime, make_blueprint("1P2D"), front, TERMS)
    with pytest.raises(Unavailable, match="no node has room"):
        await controller.start()
    await controller.stop()
    assert [actor.stops for actor in runtime.placed] == [1, 1]


async def test_a_death_during_the_stop_starts_nothing(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any]
) -> None:
    controller = Controller(runtime, make_blueprint("2D"), front, TERMS)
    await controller.start()
    runtime.placed[0].die()
    await controller.stop()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(runtime.placed) == 2


async def test_why_a_worker_was_started_again_is_published_and_logged(
    runtime: Any, front: Any, make_blueprint: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with started(Controller(runtime, make_blueprint("1D"), front, TERMS)):
        assert front.published[-1]["decode-0"].last_end == ""
        runtime.errors["decode-0"] = [Unavailable("rank 2 cannot reach rank 0")]
        runtime.placed[0].die("rank 1 is gone")
        known = await front.wait_for(lambda known: known["decode-0"].restarts == 1)
        assert known["decode-0"].last_end == "rank 1 is gone"
        known = await front.wait_for(lambda known: known["decode-0"].address == "decode-0:3")
        assert (known["decode-0"].restarts, known["decode-0"].last_end) == (2, "rank 2 cannot reach rank 0")
        assert "worker decode-0 died: rank 1 is gone" in caplog.text
        runtime.placed[2].die()
        known = await front.wait_for(lambda known: known["decode-0"].restarts == 3)
        assert known["decode-0"].last_end == ""
