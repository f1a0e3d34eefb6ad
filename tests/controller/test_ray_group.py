"""The actors of a worker's ranks as one: how it starts, why it ends, what is left of it. Ray itself is played."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from triptych.controller import ray_group
from triptych.controller.actor import Running, Started
from triptych.controller.ray_actor import RayActor
from triptych.controller.ray_group import RayGroup
from triptych.core.errors import DataLoss, Unavailable
from triptych.parallel import RankLost


class TaskError(Exception):
    """What Ray makes of an exception of an actor's method."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Played:
    """An actor of Ray: its methods answer what the test says, or raise it, or never answer."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name: asyncio.Queue[Any]() for name in ("convene", "start", "running", "wait", "stop")}
        self.asked: list[tuple[Any, ...]] = []
        self.called = asyncio.Event()
        for name, answer in answers.items():
            self.answers[name].put_nowait(answer)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._answer(name, arguments))

    async def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.asked.append((name, *arguments))
        self.called.set()
        answer = await self.answers[name].get()
        if isinstance(answer, Exception):
            raise TaskError(answer)
        return answer


class PlayedPacks:
    def __init__(self) -> None:
        self.removed = 0

    async def ready(self) -> None:
        pass

    def remove(self) -> None:
        self.removed += 1


MakeGroup = Callable[..., RayGroup]


@pytest.fixture
def killed() -> list[Played]:
    return []


@pytest.fixture
def group(killed: list[Played], monkeypatch: pytest.MonkeyPatch) -> MakeGroup:
    monkeypatch.setattr(ray_group, "CAUSE_SECONDS", 30.0)  # a cause that comes is waited for
    errors = SimpleNamespace(RayTaskError=TaskError, RayError=ConnectionError)
    ray = SimpleNamespace(exceptions=errors, kill=killed.append)

    def make(*ranks: Played) -> RayGroup:
        leader, *others = (RayActor(ray, played, f"decode-0 rank {rank}") for rank, played in enumerate(ranks))
        packs: Any = PlayedPacks()
        return RayGroup(leader, tuple(others), packs)

    return make


async def within(call: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(call, 60)


async def test_all_ranks_are_told_where_they_meet_and_start_at_once(group: MakeGroup) -> None:
    leader = Played(convene="the meeting", start=Started("here:1", 10))
    others = [Played(start=11), Played(start=12)]
    started = await within(group(leader, *others).start())
    assert started == Started("here:1", 10, (10, 11, 12))
    assert leader.asked == [("convene",), ("start",)]
    assert [other.asked for other in others] == [[("start", "the meeting")]] * 2


async def test_a_rank_that_cannot_start_fails_the_start_with_the_cause_and_not_with_its_consequence(
    group: MakeGroup,
) -> None:
    lost = RankLost("rank 1 gave up: DataLoss: the weights are damaged")
    leader, other = Played(convene="there", start=lost), Played()
    starting = asyncio.ensure_future(group(leader, other).start())
    await other.called.wait()
    other.answers["start"].put_nowait(DataLoss("the weights are damaged"))
    with pytest.raises(DataLoss, match="the weights are damaged"):
        await within(starting)


async def test_a_rank_that_dies_during_the_start_does_not_leave_the_others_waiting(group: MakeGroup) -> None:
    leader, other = Played(convene="there"), Played(start=ZeroDivisionError("a defect"))
    with pytest.raises(Unavailable, match="decode-0 rank 1 failed: a defect"):
        await within(group(leader, other).start())


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("rank 1 has been silent for 10 s", None, "rank 1 has been silent for 10 s"),
        (None, RankLost("rank 0 is gone"), "rank 0 is gone"),
        ("rank 1 is silent", RankLost("rank 0 has ended the group"), "rank 1 is silent"),
        ("", None, ""),
    ],
)
async def test_the_end_of_one_rank_is_the_end_of_all(
    group: MakeGroup,
    killed: list[Played],
    monkeypatch: pytest.MonkeyPatch,
    first: Any,
    second: Any,
    reason: str,
) -> None:
    if first is None:
        monkeypatch.setattr(ray_group, "CAUSE_SECONDS", 0.05)  # none comes
    ranks = [Played() if said is None else Played(wait=said) for said in (first, second)]
    assert await within(group(*ranks).wait()) == reason
    assert killed == (ranks[:1] if first is None else [])  # a rank 0 that says nothing stands still


async def test_all_processes_and_their_places_are_given_up_together(group: MakeGroup, killed: list[Played]) -> None:
    ranks = [Played(stop=None), Played(), Played()]
    made: Any = group(*ranks)
    await within(made.stop())
    assert (killed, made.packs.removed) == (ranks, 1)
    assert [rank.asked for rank in ranks] == [[("stop",)], [], []]
    await within(made.kill())
    assert (killed[3:], made.packs.removed) == (ranks, 2)


async def test_what_an_earlier_controller_left_runs_only_if_every_rank_does(group: MakeGroup) -> None:
    running = Running(Started("here:1", 10), "print")
    found = await within(group(Played(running=running), Played(running=11)).running())
    assert found == Running(Started("here:1", 10, (10, 11)), "print")
    assert await within(group(Played(running=running), Played(running=None)).running()) is None
    assert await within(group(Played(running=running), Played(running=ConnectionError("dead"))).running()) is None
    assert await within(group(Played(running=11), Played(running=12)).running()) is None  # rank 0 is not there
