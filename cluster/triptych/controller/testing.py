"""A runtime without Ray: every worker runs in this process, with its real threads, sockets and shared memory."""

import asyncio
import os
import threading

from triptych.controller.actor import Started
from triptych.controller.desired import DesiredWorker
from triptych.core.errors import Unavailable
from triptych.stages.host import StageHost


class InProcessActor:
    """One worker on threads of this process.

    Attributes:
        host: What runs the worker; None before `start` and after the end.
    """

    def __init__(self, worker: DesiredWorker) -> None:
        self.host: StageHost | None = None
        self._settings = worker.settings
        self._lock = threading.Lock()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> Started:
        """See `Actor.start`."""
        return Started(await asyncio.to_thread(self._launch), os.getpid())

    async def wait(self) -> None:
        """See `Actor.wait`."""
        await self._ended.wait()

    async def stop(self) -> None:
        """See `Actor.stop`."""
        with self._lock:
            self._ended.set()
            host, self.host = self.host, None
        if host:
            await asyncio.to_thread(host.stop)

    def kill(self) -> None:
        """Ends the worker as a crash would: its streams break, nobody says goodbye. From any thread."""
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result()

    def _launch(self) -> str:
        host = StageHost(self._settings)
        address = host.start()
        with self._lock:
            if not self._ended.is_set():
                self.host = host
                host.ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._ended.set))
                return address
        host.stop()
        raise Unavailable("the worker was ended before it had started")


class InProcessRuntime:
    """Places workers here; `actors` holds the latest one of each worker.

    Args:
        address: Not used.
        cpus: Not used.
    """

    def __init__(self, address: str | None = None, cpus: float = 0) -> None:
        self.actors: dict[str, InProcessActor] = {}

    def place(self, worker: DesiredWorker, attempt: int) -> InProcessActor:
        """A worker that is built when it is started."""
        actor = InProcessActor(worker)
        self.actors[worker.settings.worker_id] = actor
        return actor

    def close(self) -> None:
        """Nothing is held."""
