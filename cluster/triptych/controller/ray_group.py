"""The actors of a worker that has several ranks: for the controller they are one."""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from triptych.controller.actor import Running, Started
from triptych.controller.ray_actor import ANSWER_SECONDS, START_SECONDS, RayActor
from triptych.controller.ray_pack import Packs
from triptych.core.errors import TriptychError
from triptych.parallel import RankLost
from triptych.stages.meeting import Meeting

CAUSE_SECONDS = 1.0
"""How long to wait for a better reason when a start fails: the others notice the loss before its cause is known."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RayGroup:
    """See `Actor`. It lives as long as all of its ranks do.

    Attributes:
        leader: Rank 0, which serves; of what is left of an attempt without one, any.
        followers: The others.
        packs: Where they are.
    """

    leader: RayActor
    followers: tuple[RayActor, ...]
    packs: Packs

    async def start(self) -> Started:
        """See `Actor.start`."""
        await self.packs.ready()
        meeting = cast(Meeting, await self.leader.call(self.leader.handle.convene.remote(), within=START_SECONDS))
        joins = [one.call(one.handle.start.remote(meeting), within=START_SECONDS) for one in self.followers]
        started, *pids = await _all(self.leader.start(), *joins)
        return replace(cast(Started, started), rank_pids=(cast(Started, started).pid, *cast("list[int]", pids)))

    async def running(self) -> Running | None:
        """See `Actor.running`. One rank that does not answer is enough for None."""
        try:
            pids = [one.call(one.handle.running.remote(), within=ANSWER_SECONDS) for one in self.followers]
            running, *others = await _all(self.leader.running(), *pids)
        except TriptychError:
            return None
        if not isinstance(running, Running) or None in others:
            return None
        pids_of_all = (running.started.pid, *cast("list[int]", others))
        return replace(running, started=replace(running.started, rank_pids=pids_of_all))

    async def wait(self) -> str:
        """See `Actor.wait`. The first rank's end is the end of all; what rank 0 says of it counts most.

        A rank 0 that says nothing stands still, and is killed: it would not answer `stop` either.
        """
        waits = [asyncio.ensure_future(one.wait()) for one in (self.leader, *self.followers)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(waits[:1], timeout=CAUSE_SECONDS)
            if not waits[0].done():
                await self.leader.kill()
            return next((wait.result() for wait in waits if wait.done() and wait.result()), "")
        finally:
            _cancel(waits)

    async def stop(self) -> None:
        """See `Actor.stop`."""
        await self.leader.close()
        await self.kill()

    async def kill(self) -> None:
        """See `Actor.kill`."""
        await asyncio.gather(*(one.kill() for one in (self.leader, *self.followers)), return_exceptions=True)
        await asyncio.to_thread(self.packs.remove)


async def _all(*calls: Awaitable[_Result]) -> list[_Result]:
    """The results of all.

    Raises:
        Exception: the first that one has raised, or soon after it a cause that it is a consequence of.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if not _errors(tasks):
            return [task.result() for task in tasks]
        if all(isinstance(error, RankLost) for error in _errors(tasks)):
            await asyncio.wait(tasks, timeout=CAUSE_SECONDS)
        raise min(_errors(tasks), key=lambda error: isinstance(error, RankLost))
    finally:
        _cancel(tasks)


def _errors(tasks: Iterable["asyncio.Future[_Result]"]) -> list[BaseException]:
    return [error for task in tasks if task.done() and (error := task.exception())]


def _cancel(tasks: Iterable["asyncio.Future[_Result]"]) -> None:
    for task in tasks:
        task.cancel()
