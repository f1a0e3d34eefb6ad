"""A runtime without Ray: every worker runs in this process, with its real threads, sockets and shared memory."""

import asyncio
import os

from triptych.controller.actor import Started
from triptych.controller.desired import DesiredWorker
from triptych.core.errors import Unavailable
from triptych.stages.host import StageHost


class InProcessActor:
    """One worker on threads of this process."""

    def __init__(self, worker: DesiredWorker) -> None:
        self.host = StageHost(worker.settings)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> Started:
        """See `Actor.start`."""
        if self._ended.is_set():
            raise Unavailable("the worker was ended before it started")
        return Started(await asyncio.to_thread(self.host.start), os.getpid())

    async def wait(self) -> None:
        """See `Actor.wait`."""
        await self._ended.wait()

    async def stop(self) -> None:
        """See `Actor.stop`."""
        if not self._ended.is_set():
            self._ended.set()
            await asyncio.to_thread(self.host.stop)

    def kill(self) -> None:
        """Ends the worker as a crash would: its streams break, nobody says goodbye. From any thread."""
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result()


class InProcessRuntime:
    """Places workers here; `actors` holds the latest one of each worker.

    Args:
        address: Not used.
        cpus: Not used.
    """

    def __init__(self, address: str | None = None, cpus: float = 0) -> None:
        self.actors: dict[str, InProcessActor] = {}

    def place(self, worker: DesiredWorker, attempt: int) -> InProcessActor:
        """Builds a worker; loading the model blocks."""
        actor = InProcessActor(worker)
        self.actors[worker.settings.worker_id] = actor
        return actor

    def close(self) -> None:
        """Nothing is held."""
