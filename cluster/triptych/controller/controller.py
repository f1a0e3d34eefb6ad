"""Keeps the desired workers running and the router told of where they are."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from triptych.controller.desired import DesiredWorker
from triptych.controller.ray_runtime import Actor, Runtime
from triptych.controller.restarts import RestartHistory, after_death
from triptych.router.clock import now
from triptych.router.fleet import WorkerAddress

logger = logging.getLogger(__name__)


class Placements(Protocol):
    """Who wants to know where the workers are."""

    async def place(self, addresses: tuple[WorkerAddress, ...]) -> None:
        """The workers as they are placed now."""


class Controller:
    """Starts every worker, watches it, and starts it again when it dies.

    Args:
        runtime: Where actors are placed.
        workers: What should run.
        placements: Hears of every change.
        on_ready: Called with a worker's id when it serves for the first time.
    """

    def __init__(
        self,
        runtime: Runtime,
        workers: tuple[DesiredWorker, ...],
        placements: Placements,
        on_ready: Callable[[str], None] = lambda worker_id: None,
    ) -> None:
        self._runtime = runtime
        self._workers = workers
        self._placements = placements
        self._on_ready = on_ready
        self._actors: dict[str, Actor] = {}
        self._addresses = {
            w.settings.worker_id: WorkerAddress(w.settings.worker_id, w.settings.role, "") for w in workers
        }
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts all workers at once; returns when each serves.

        Raises:
            TriptychError: a worker cannot start; the others are left to `stop`.
        """
        await self._publish()
        actors = [self._place(worker, 0) for worker in self._workers]
        starts = [asyncio.create_task(self._start(w, a, 0)) for w, a in zip(self._workers, actors, strict=True)]
        try:
            await asyncio.gather(*starts)
        finally:
            for task in starts:
                task.cancel()
        for worker, actor in zip(self._workers, actors, strict=True):
            name = f"watch {worker.settings.worker_id}"
            self._watchers.append(asyncio.create_task(self._watch(worker, actor), name=name))

    async def stop(self) -> None:
        """Ends every worker."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(actor.stop() for actor in self._actors.values()), return_exceptions=True)
        self._actors.clear()

    def _place(self, worker: DesiredWorker, attempt: int) -> Actor:
        actor = self._runtime.place(worker, attempt)
        self._actors[worker.settings.worker_id] = actor
        return actor

    async def _start(self, worker: DesiredWorker, actor: Actor, restarts: int) -> None:
        started = await actor.start()
        settings = worker.settings
        self._addresses[settings.worker_id] = WorkerAddress(
            settings.worker_id, settings.role, started.address, started.pid, restarts
        )
        self._on_ready(settings.worker_id)
        await self._publish()

    async def _watch(self, worker: DesiredWorker, actor: Actor) -> None:
        """Waits for the worker's death and starts it again, for as long as the cluster lives."""
        worker_id = worker.settings.worker_id
        history, since = RestartHistory(), now()
        while True:
            await actor.wait()
            history, delay = after_death(history, now() - since)
            logger.warning("worker %s died; restart %d in %.1f s", worker_id, history.total, delay)
            self._addresses[worker_id] = WorkerAddress(worker_id, worker.settings.role, "", 0, history.total)
            await self._publish()
            await actor.stop()  # its process may have outlived the worker
            await asyncio.sleep(delay)
            since = now()
            try:
                actor = self._place(worker, history.total)
                await self._start(worker, actor, history.total)
            except Exception as error:  # whatever it is, the next try may succeed
                logger.error("worker %s cannot start: %s", worker_id, error)
                await actor.stop()

    async def _publish(self) -> None:
        await self._placements.place(tuple(self._addresses.values()))
