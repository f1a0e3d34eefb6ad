"""A whole cluster: model files, Ray, workers and router, started in order and stopped in reverse."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import psutil

from triptych.config.resources import resolve_stages
from triptych.config.spec import ClusterSpec
from triptych.controller.controller import Controller
from triptych.controller.desired import desired_workers, require_memory, weight_bytes
from triptych.controller.ray_runtime import RayRuntime, Runtime
from triptych.core.plan import RoutingPolicy
from triptych.engine.loading import convert_weights
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import choose_quantization
from triptych.models.resolve import resolve
from triptych.models.spec import ModelSpec, read_spec
from triptych.models.text import TextProcessor
from triptych.router.intake import InputLimits, Intake
from triptych.router.server import Router, require_free


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A cluster that serves.

    Attributes:
        address: "host:port" of the router.
        model: The name that clients use.
        layout: Such as "1E1P1D".
    """

    address: str
    model: str
    layout: str


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
    files = await asyncio.to_thread(resolve, spec.model, progress=progress)
    choose_quantization(spec.quantization, files)  # refuse before anything is started
    model = read_spec(files)
    cpu_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    stages = resolve_stages(spec, accepts_images=model.vision is not None, cpu_count=cpu_count)
    memory = psutil.virtual_memory()
    workers = desired_workers(spec, files, model, stages, memory.total)
    if spec.ray.address is None:  # the workers of a joined cluster are elsewhere
        require_memory(workers, weight_bytes(spec, files, model), memory.available)
        await asyncio.to_thread(convert_weights, files, spec.dtype, spec.quantization, progress=progress)
    async with contextlib.AsyncExitStack() as stack:
        # Ray forks, and a fork between gRPC's threads hangs: Ray starts before the first server or channel exists.
        cpus = max(cpu_count, sum(worker.cpus for worker in workers))
        runtime = await asyncio.to_thread(make_runtime, spec.ray.address, cpus)
        stack.push_async_callback(asyncio.to_thread, runtime.close)
        _rearm_signals()
        router = _router(spec, files, model)
        controller = Controller(runtime, workers, router, on_ready)
        stack.push_async_callback(controller.stop)
        await router.start()
        stack.push_async_callback(router.stop)  # first to stop: running answers get its grace while workers live
        await controller.start()
        await router.wait_ready()
        yield RunningCluster(router.address, spec.name, router.fleet.layout())


def _router(spec: ClusterSpec, files: ModelFiles, model: ModelSpec) -> Router:
    limits = InputLimits(
        context_length=min(spec.context_length or model.context_length, model.context_length),
        max_images=spec.router.max_images_per_request,
        max_image_pixels=spec.router.max_image_pixels,
        max_image_bytes=spec.router.max_image_bytes,
        max_linger=spec.router.max_linger_seconds,
    )
    policy = RoutingPolicy(spec.router.colocate_below_tokens, spec.router.max_requests_per_worker)
    intake = Intake(spec.name, model, TextProcessor.load(files, model), limits)
    return Router(spec.router.grpc, intake, policy, spec.router.max_running_requests)


def _rearm_signals() -> None:
    """Puts this process's handler of SIGTERM back: Ray has put in its place one that reports a crash and aborts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
