"""The actors of a cluster: carries out what the rules ask for, and posts what becomes of it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from triptych.controller.actor import Started
from triptych.controller.desired import DesiredWorker
from triptych.controller.runtime import Actor, FoundActor, Runtime
from triptych.core.reconcile import Died, Event, StartFailed, Stopped
from triptych.core.reconcile import Started as HasStarted

logger = logging.getLogger(__name__)

Ending = Callable[[Actor], Coroutine[None, None, None]]


@dataclass(slots=True)
class Member:
    """One worker's actor.

    Attributes:
        actor: None when it could not be placed.
        started: Where it serves; None before.
        life: Waits for its start and its death.
        error: Why it did not start.
        end: Why the start before ended; empty when there was none, or nothing is known.
    """

    actor: Actor | None = None
    started: Started | None = None
    life: "asyncio.Task[None] | None" = None
    error: Exception | None = None
    end: str = ""


@dataclass(frozen=True, slots=True)
class Crew:
    """At most one actor for each worker.

    Attributes:
        runtime: Where actors are placed.
        post: Hears of starts, deaths and ends.
    """

    runtime: Runtime
    post: Callable[[Event], None]
    _members: dict[str, Member] = field(default_factory=dict)
    _endings: set["asyncio.Task[None]"] = field(default_factory=set)
    _ends: dict[str, str] = field(default_factory=dict)

    def start(self, worker: DesiredWorker, attempt: int) -> None:
        """Places a worker's actor; `Started` or `StartFailed` follows, then `Died` when it dies."""
        member = self._members[worker.settings.worker_id] = Member(end=self._ends.pop(worker.settings.worker_id, ""))
        member.life = asyncio.create_task(self._live(worker, attempt, member))

    def adopt(self, found: FoundActor, started: Started) -> None:
        """Takes over an actor that serves; `Died` follows when it dies."""
        member = self._members[found.worker_id] = Member(found.actor, started)
        member.life = asyncio.create_task(self._watch(found.worker_id, found.attempt, found.actor))

    def stop(self, worker_id: str) -> None:
        """Ends a worker's actor in order; `Stopped` follows."""
        self._end(worker_id, lambda actor: actor.stop())

    def kill(self, worker_id: str) -> None:
        """Ends a worker's process; `Stopped` follows."""
        self._ends[worker_id] = "it computed nothing any more, and was killed"
        self._end(worker_id, lambda actor: actor.kill())

    def started(self, worker_id: str) -> Started | None:
        """Where a worker serves."""
        member = self._members.get(worker_id)
        return member.started if member else None

    def end(self, worker_id: str) -> str:
        """Why a worker had to be started again; empty when it was not, or nothing is known."""
        member = self._members.get(worker_id)
        return (member.end if member else "") or self._ends.get(worker_id, "")

    def error(self, worker_id: str) -> Exception | None:
        """Why a worker did not start."""
        member = self._members.get(worker_id)
        return member.error if member else None

    async def close(self) -> None:
        """Ends every actor in order; nothing is posted any more that anybody would hear."""
        for worker_id in list(self._members):
            self.stop(worker_id)
        await asyncio.gather(*self._endings, return_exceptions=True)

    def leave(self) -> None:
        """Lets go of every actor without ending it."""
        for member in self._members.values():
            if member.life:
                member.life.cancel()
        for ending in self._endings:
            ending.cancel()
        self._members.clear()

    async def _live(self, worker: DesiredWorker, attempt: int, member: Member) -> None:
        worker_id = worker.settings.worker_id
        try:
            member.actor = await self.runtime.place(worker, attempt)
            member.started = await member.actor.start()
        except Exception as error:  # whatever it is, the next try may succeed
            logger.warning("worker %s cannot start: %s", worker_id, error)
            member.error = error
            self._ends[worker_id] = str(error)
            self.post(StartFailed(worker_id, attempt))
            return
        self.post(HasStarted(worker_id, attempt))
        await self._watch(worker_id, attempt, member.actor)

    async def _watch(self, worker_id: str, attempt: int, actor: Actor) -> None:
        reason = await actor.wait()
        logger.warning("worker %s died%s", worker_id, f": {reason}" if reason else "")
        self._ends[worker_id] = reason
        self.post(Died(worker_id, attempt))

    def _end(self, worker_id: str, how: Ending) -> None:
        member = self._members.pop(worker_id)
        if member.life:
            member.life.cancel()
        ending = asyncio.create_task(self._ending(worker_id, member.actor, how))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _ending(self, worker_id: str, actor: Actor | None, how: Ending) -> None:
        if actor:
            with contextlib.suppress(Exception):  # an end that fails must not keep its successor from starting
                await how(actor)
        self.post(Stopped(worker_id))
