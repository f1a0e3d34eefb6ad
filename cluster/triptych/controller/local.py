"""A cluster for code that is not asynchronous: the demo, notebooks, tests."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from triptych.config.spec import ClusterSpec
from triptych.controller.cluster import RunningCluster, run_cluster
from triptych.controller.ray_runtime import RayRuntime
from triptych.controller.runtime import Runtime
from triptych.models.progress import SILENT, Progress


class LocalCluster:
    """Runs a cluster on a thread of its own while the context is open.

    with LocalCluster(ClusterSpec(model="builtin:smollm2")) as cluster, Client(cluster.address) as client: ...

    Args:
        spec: What to run.
        progress: Hears of downloads and conversions.
        make_runtime: Where workers are placed.

    Raises:
        TriptychError: on entering, when the cluster cannot start.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        progress: Progress = SILENT,
        make_runtime: Callable[[str | None, float], Runtime] = RayRuntime,
    ) -> None:
        self._spec = spec
        self._progress = progress
        self._make_runtime = make_runtime
        self._running: Future[RunningCluster] = Future()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._main, name="cluster", daemon=True)

    def __enter__(self) -> RunningCluster:
        """Starts everything; returns when it serves."""
        self._thread.start()
        return self._running.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops everything."""
        self._stop()
        self._thread.join()

    def restart_router(self, grace: float = 0.0) -> None:
        """See `RunningCluster.restart_router`."""
        asyncio.run_coroutine_threadsafe(self._running.result().restart_router(grace), self._loop).result()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            if self._running.done():
                raise
            self._running.set_exception(error)

    async def _run(self) -> None:
        stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stop = lambda: self._loop.call_soon_threadsafe(stopping.set)
        async with run_cluster(self._spec, progress=self._progress, make_runtime=self._make_runtime) as cluster:
            self._running.set_result(cluster)
            await stopping.wait()
