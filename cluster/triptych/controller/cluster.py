"""A whole cluster: model files, Ray, workers and router, started in order and stopped in reverse."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable

import psutil

from triptych.config.resources import resolve_stages
from triptych.config.spec import ClusterSpec
from triptych.controller.controller import Controller, Terms
from triptych.controller.desired import Blueprint, DesiredWorker, require_memory, weight_bytes
from triptych.controller.door import kind_of, router_of
from triptych.controller.ray_runtime import RayRuntime
from triptych.controller.runtime import Runtime
from triptych.engine.embedder import load_embedder
from triptych.engine.loading import convert_weights
from triptych.models.embedding.reading import read_either
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import choose_quantization
from triptych.models.resolve import resolve
from triptych.models.spec import EmbedderSpec, ModelSpec
from triptych.router.server import Router, require_free


class RunningCluster:
    """A cluster that serves.

    Args:
        model: The name that clients use.
        controller: Of its workers.
        make_router: A router that listens on an address.
        router: The one that is open.
    """

    def __init__(
        self, model: str, controller: Controller, make_router: Callable[[str], Router], router: Router
    ) -> None:
        self.model = model
        self._controller = controller
        self._make_router = make_router
        self._router = router

    @property
    def address(self) -> str:
        """Where the router listens, as "host:port"."""
        return self._router.address

    @property
    def layout(self) -> str:
        """Such as "1E1P1D"."""
        return self._router.fleet.layout()

    async def restart_router(self, grace: float = 0.0) -> None:
        """Another router takes the place of this one, which gives running requests `grace` seconds to end."""
        address = self.address
        await self._router.stop(grace)
        self._router = self._make_router(address)
        self._router.operate(self._controller)
        await self._router.start()
        await self._controller.attach(self._router)
        await self._router.wait_ready()

    async def close(self) -> None:
        """The router ends: running answers get its grace while the workers live."""
        await self._router.stop()


@contextlib.asynccontextmanager
async def run_cluster(
    spec: ClusterSpec,
    *,
    progress: Progress = SILENT,
    on_ready: Callable[[str], None] = lambda worker_id: None,
    make_runtime: Callable[[str | None, float], Runtime] = RayRuntime,
) -> AsyncIterator[RunningCluster]:
    """Runs a cluster while the context is open.

    Args:
        spec: What to run.
        progress: Hears of downloads and conversions.
        on_ready: Called with each worker's id as it becomes ready.
        make_runtime: Where workers are placed, from the Ray address and the logical processors.

    Raises:
        TriptychError: something is missing or does not fit; nothing is left running.
    """
    require_free(spec.router.grpc)
    cpu_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    blueprint = await asyncio.to_thread(_prepare, spec, cpu_count, progress)
    async with contextlib.AsyncExitStack() as stack:
        # Ray forks, and a fork between gRPC's threads hangs: Ray starts before the first server or channel exists.
        runtime = await asyncio.to_thread(make_runtime, spec.ray.address, cpu_count)
        stack.push_async_callback(asyncio.to_thread, runtime.close)
        _rearm_signals()
        make_router = functools.partial(router_of, spec, blueprint.files, blueprint.model)
        router = make_router(spec.router.grpc)
        controller = Controller(runtime, blueprint, router, _terms(spec), on_ready)
        stack.push_async_callback(controller.stop)
        router.operate(controller)
        cluster = RunningCluster(spec.name, controller, make_router, router)
        await router.start()
        stack.push_async_callback(cluster.close)  # first to stop
        await controller.start()
        await router.wait_ready()
        yield cluster


def _prepare(spec: ClusterSpec, cpu_count: int, progress: Progress) -> Blueprint:
    """Finds the model, refuses what does not fit, and makes the files that its workers map."""
    files = resolve(spec.model, progress=progress)
    choose_quantization(spec.quantization, files)  # refuse before anything is started
    model = read_either(files)
    stages = resolve_stages(spec, kind_of(spec, model), cpu_count=cpu_count)
    memory = psutil.virtual_memory()
    blueprint = Blueprint(spec, files, model, stages, memory.total)
    if spec.ray.address is None:  # the workers of a joined cluster are elsewhere
        require_memory(blueprint.workers(), weight_bytes(spec, files, model), memory.available)
        _convert(spec, files, model, progress)
    return blueprint


def _convert(spec: ClusterSpec, files: ModelFiles, model: ModelSpec | EmbedderSpec, progress: Progress) -> None:
    if isinstance(model, EmbedderSpec):
        load_embedder(files, spec.dtype, progress=progress)
    else:
        convert_weights(files, spec.dtype, spec.quantization, spec.adapter_folders, progress=progress)


def _terms(spec: ClusterSpec) -> Terms:
    return Terms(
        cluster=spec.ray.cluster_name or spec.name,
        drain_seconds=spec.router.drain_seconds,
        require_room=_require_room if spec.ray.address is None else lambda workers: None,
    )


def _require_room(workers: tuple[DesiredWorker, ...]) -> None:
    """Refuses workers that are added to a cluster on this machine; the others have mapped the weights already."""
    require_memory(workers, 0, psutil.virtual_memory().available)


def _rearm_signals() -> None:
    """Puts this process's handler of SIGTERM back: Ray has put in its place one that reports a crash and aborts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
