"""Keeps the desired workers running and the router told of where they are: an adapter of `core.reconcile`."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from triptych.controller.actor import fingerprint
from triptych.controller.crew import Crew
from triptych.controller.desired import Blueprint, DesiredWorker
from triptych.controller.front import Front
from triptych.controller.runtime import Runtime
from triptych.core import reconcile as rules
from triptych.core.fleet import Stage
from triptych.core.reconcile.policy import DEFAULT
from triptych.router.clock import now
from triptych.router.fleet import WorkerAddress

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 0.25  # how often the router is asked how its workers are


@dataclass(frozen=True, slots=True)
class Terms:
    """What a controller is told beside its workers.

    Attributes:
        cluster: Name of the cluster: who starts again under it finds the workers of before.
        drain_seconds: How long requests may go on where nobody says otherwise.
        policy: Times of the rules.
        require_room: Refuses workers that do not fit the machine.
    """

    cluster: str
    drain_seconds: float = 30.0
    policy: rules.Policy = DEFAULT
    require_room: Callable[[tuple[DesiredWorker, ...]], None] = lambda workers: None


class Controller:
    """Starts every worker, watches it, and starts it again when it dies; drains and adds workers by hand.

    Args:
        runtime: Where actors are placed.
        blueprint: What should run.
        front: The router.
        terms: What else there is to know.
        on_ready: Called with a worker's id when it serves.
    """

    def __init__(
        self,
        runtime: Runtime,
        blueprint: Blueprint,
        front: Front,
        terms: Terms,
        on_ready: Callable[[str], None] = lambda worker_id: None,
    ) -> None:
        self._runtime = runtime
        self._blueprint = blueprint
        self._front = front
        self._terms = terms
        self._on_ready = on_ready
        self._roster = rules.new_roster(blueprint.roles(), blueprint.abilities())
        self._events: asyncio.Queue[rules.Event] = asyncio.Queue()
        self._crew = Crew(runtime, self._events.put_nowait)
        self._published: tuple[WorkerAddress, ...] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over the workers that are there and starts the others at once; returns when each serves.

        Raises:
            TriptychError: a worker cannot start; the others are left to `stop`.
        """
        await self._take_over()
        adopted = any(isinstance(worker.state, rules.Serving) for worker in self._roster.workers.values())
        if adopted:
            self._front.take_over()
        self._turn(None)
        await self._publish()
        while any(isinstance(worker.state, rules.Starting) for worker in self._roster.workers.values()):
            event = await self._events.get()
            # Where others serve already, one that cannot start is no reason to end them.
            if isinstance(event, rules.StartFailed) and not adopted and (error := self._crew.error(event.worker_id)):
                raise error
            self._turn(event)
            await self._publish()
        self._task = asyncio.create_task(self._run(), name="controller")

    async def stop(self) -> None:
        """Ends every worker."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._crew.close()

    async def attach(self, front: Front) -> None:
        """Tells another router from now on, instead of the one before."""
        self._front, self._published = front, None
        front.take_over()
        for action in rules.drains(self._roster, now(), self._terms.policy):
            self._perform(action)  # before it meets the workers: it must not give them new work
        await self._publish()

    async def drain(self, worker_id: str, timeout: float | None) -> None:  # noqa: ASYNC109 - the requests', not ours
        """Takes a worker out; returns at once.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: it is the last one that can do its work.
        """
        self._roster = rules.drain(self._roster, worker_id, self._patience(timeout))
        self._turn(None)
        await self._publish()

    async def scale(self, stage: Stage, replicas: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sets how many workers a stage has; the ids that are started, and those that are drained. Returns at once.

        Raises:
            InvalidArgument: so many cannot be.
            FailedPrecondition: nobody would be left to do the work of the stage, or the new ones do not fit.
        """
        roster, started, drained = rules.scale(self._roster, stage, replicas, self._patience(None))
        self._terms.require_room(tuple(self._blueprint.worker(worker_id, stage) for worker_id in started))
        self._roster = roster
        self._turn(None)
        await self._publish()
        return started, drained

    async def _take_over(self) -> None:
        actors = {actor.name: actor for actor in await self._runtime.take_over(self._terms.cluster)}
        running = dict(zip(actors, await asyncio.gather(*(a.actor.running() for a in actors.values())), strict=True))
        found = [
            rules.Found(a.name, a.worker_id, a.attempt, said.fingerprint if (said := running[a.name]) else "")
            for a in actors.values()
        ]
        wanted = {worker.settings.worker_id: fingerprint(worker.settings) for worker in self._blueprint.workers()}
        self._roster, ended = rules.adopt(self._roster, found, wanted, now())
        await asyncio.gather(*(actors[other.name].actor.stop() for other in ended))
        for name in actors.keys() - {other.name for other in ended}:
            if said := running[name]:
                logger.info("worker %s runs already", actors[name].worker_id)
                self._crew.adopt(actors[name], said.started)
                self._on_ready(actors[name].worker_id)

    async def _run(self) -> None:
        while True:
            try:
                self._turn(await self._next())
                await self._publish()
            except Exception:  # one that cannot be told of is no reason to leave the others alone
                logger.exception("the controller could not do what an event asks for")

    async def _next(self) -> rules.Event:
        """What happens next; the router's view when nothing does for a while."""
        wake = rules.wake_at(self._roster)
        patience = LISTEN_SECONDS if wake is None else max(0.0, min(LISTEN_SECONDS, wake - now()))
        try:
            async with asyncio.timeout(patience):
                return await self._events.get()
        except TimeoutError:
            return rules.Heard(self._front.health(), self._front.requests())

    def _turn(self, event: rules.Event | None) -> None:
        before = self._roster
        self._roster, actions = rules.reconcile(before, event, now(), self._terms.policy)
        for action in actions:
            self._perform(action)
        if isinstance(event, rules.Started) and self._roster is not before:
            self._on_ready(event.worker_id)

    def _perform(self, action: rules.Action) -> None:
        match action:
            case rules.Start(worker_id, attempt):
                worker = self._blueprint.worker(worker_id, self._roster.workers[worker_id].role)
                self._crew.start(worker, attempt)
            case rules.Drain(worker_id, timeout):
                logger.info("worker %s is drained; what runs there moves after %g s", worker_id, timeout)
                self._front.drain(worker_id, timeout)
            case rules.Stop(worker_id):
                self._crew.stop(worker_id)
            case rules.Kill(worker_id):
                logger.warning("worker %s lives and does not answer: its process is killed", worker_id)
                self._crew.kill(worker_id)
            case _:
                assert_never(action)

    async def _publish(self) -> None:
        """Tells the router where the workers are, when that has changed."""
        addresses = tuple(
            self._address(worker_id, worker)
            for worker_id, worker in self._roster.workers.items()
            if worker_id in self._roster.desired or _serves(worker)
        )
        if addresses != self._published:
            self._published = addresses
            await self._front.place(addresses)

    def _address(self, worker_id: str, worker: rules.Worker) -> WorkerAddress:
        started = self._crew.started(worker_id) if _serves(worker) else None
        address, pid, rank_pids = (started.address, started.pid, started.rank_pids) if started else ("", 0, ())
        restarts, last_end = worker.history.total, self._crew.end(worker_id)
        return WorkerAddress(worker_id, worker.role, address, pid, restarts, rank_pids, last_end)

    def _patience(self, timeout: float | None) -> float:
        return self._terms.drain_seconds if timeout is None else timeout


def _serves(worker: rules.Worker) -> bool:
    return isinstance(worker.state, rules.Serving | rules.Silent | rules.Draining)
