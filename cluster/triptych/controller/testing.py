"""A runtime without Ray: every worker runs in this process, with its real threads, sockets and shared memory."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from triptych.controller.actor import Running, Started, fingerprint
from triptych.controller.controller import Controller
from triptych.controller.desired import DesiredWorker
from triptych.controller.runtime import FoundActor
from triptych.core.errors import Unavailable
from triptych.parallel import RankLost
from triptych.stages.host import StageHost
from triptych.stages.meeting import Convener, Meeting
from triptych.stages.rank_host import RankHost


@asynccontextmanager
async def started(controller: Controller) -> AsyncIterator[Controller]:
    """A controller that runs while the context is open."""
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


class InProcessActor:
    """One worker, with all its ranks, on threads of this process.

    Attributes:
        host: What runs the worker; None before `start` and after the end.
        others: What runs its ranks from 1 on.
    """

    def __init__(self, worker: DesiredWorker) -> None:
        self.host: StageHost | None = None
        self.others: tuple[RankHost, ...] = ()
        self._settings = worker.settings
        self._started: Started | None = None
        self._lock = threading.Lock()
        self._ended = asyncio.Event()
        self._reason = ""
        self._loop = asyncio.get_running_loop()

    async def start(self) -> Started:
        """See `Actor.start`."""
        size = self._settings.parallelism.size
        ranks = (os.getpid(),) * size if size > 1 else ()
        self._started = Started(await asyncio.to_thread(self._launch), os.getpid(), ranks)
        return self._started

    async def running(self) -> Running | None:
        """See `Actor.running`."""
        return Running(self._started, fingerprint(self._settings)) if self._started and self.host else None

    async def wait(self) -> str:
        """See `Actor.wait`."""
        await self._ended.wait()
        return self._reason

    async def stop(self) -> None:
        """See `Actor.stop`."""
        with self._lock:
            self._ended.set()
            host, self.host = self.host, None
        if host:
            await asyncio.to_thread(host.stop)
        for other in self.others:
            await asyncio.to_thread(other.stop)

    async def kill(self) -> None:
        """See `Actor.kill`."""
        await self.stop()

    def crash(self) -> None:
        """Ends the worker as a crash would: its streams break, nobody says goodbye. From any thread."""
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result()

    def lose(self, rank: int) -> None:
        """Ends one of the further ranks as a crash of its process would: its connections break. From any thread."""
        self.others[rank - 1].stop()

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._ended.set()

    def _launch(self) -> str:
        parallelism = self._settings.parallelism
        if parallelism.size == 1:
            return self._serve(StageHost(self._settings))
        convener = Convener(parallelism, self._settings.host)
        with ThreadPoolExecutor(parallelism.size) as threads:
            others = [threads.submit(self._join, rank, convener.meeting) for rank in range(1, parallelism.size)]
            host = threads.submit(StageHost, self._settings, convener)
        starts: list[Future[Any]] = [host, *others]
        errors = [error for one in starts if (error := one.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, RankLost)):
            raise error
        self.others = tuple(one.result() for one in others)
        return self._serve(host.result())

    def _join(self, rank: int, meeting: Meeting) -> RankHost:
        host = RankHost(self._settings, rank, meeting)
        host.start()
        return host

    def _serve(self, host: StageHost) -> str:
        address = host.start()
        with self._lock:
            if not self._ended.is_set():
                self.host = host
                host.ended.add_done_callback(lambda of: self._loop.call_soon_threadsafe(self._end, of.result()))
                return address
        host.stop()
        raise Unavailable("the worker was ended before it had started")


class InProcessRuntime:
    """Places workers here. Given to another controller it is what a Ray cluster is that has outlived one.

    Args:
        address: Not used.
        cpus: Not used.

    Attributes:
        actors: The latest one of each worker.
    """

    def __init__(self, address: str | None = None, cpus: float = 0) -> None:
        self.actors: dict[str, InProcessActor] = {}
        self._attempts: dict[str, int] = {}

    async def take_over(self, cluster: str) -> tuple[FoundActor, ...]:
        """See `Runtime.take_over`."""
        return tuple(
            FoundActor(worker_id, worker_id, self._attempts[worker_id], actor)
            for worker_id, actor in self.actors.items()
            if actor.host
        )

    async def place(self, worker: DesiredWorker, attempt: int) -> InProcessActor:
        """A worker that is built when it is started."""
        actor = InProcessActor(worker)
        self.actors[worker.settings.worker_id] = actor
        self._attempts[worker.settings.worker_id] = attempt
        return actor

    def close(self) -> None:
        """Nothing is held."""


async def crash(controller: Controller) -> None:
    """Ends a controller as the death of its process would: its workers go on, and nobody watches them."""
    if controller._task:
        controller._task.cancel()
        await asyncio.gather(controller._task, return_exceptions=True)
    controller._crew.leave()
