"""A whole cluster: model files, Ray, workers and router, started in order and stopped in reverse."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import psutil

from triptych.config.resources import StageResources, resolve_stages
from triptych.config.spec import ClusterSpec
from triptych.controller.controller import Controller, Terms
from triptych.controller.desired import (
    PROCESS_BYTES,
    Blueprint,
    DesiredWorker,
    parallelism_of,
    plain_form,
    require_memory,
    unmapped_bytes,
    weight_bytes,
)
from triptych.controller.door import kind_of, router_of
from triptych.controller.expert_memory import Offloads, offloads_of, settle
from triptych.controller.ray_runtime import RayRuntime
from triptych.controller.runtime import Runtime
from triptych.core.fleet import Stage
from triptych.engine.dtypes import choose_dtype
from triptych.engine.embedder import load_embedder
from triptych.engine.loading import convert_weights, pack_experts
from triptych.engine.ranks.settings import require_divisible
from triptych.experts.fit import free_memory
from triptych.models.config import read_config
from triptych.models.embedding.reading import read_either
from triptych.models.expert_sizes import WeightForm, expert_parameters
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization, choose_quantization
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
    form = choose_quantization(spec.quantization, files)  # refuse before anything is started
    model = read_either(files)
    stages = resolve_stages(spec, kind_of(spec, model), cpu_count=cpu_count)
    _require_ranks(spec, model, stages)
    offloads = offloads_of(spec, model, stages)
    weights = _form(spec, files, model, form) if any(offloads.values()) else plain_form(spec, files, model)
    blueprint = Blueprint(spec, files, model, stages, psutil.virtual_memory().total, offloads, weights)
    if spec.ray.address is None:  # the workers of a joined cluster are elsewhere
        blueprint = _settled(blueprint, free_memory())
        mapped = weight_bytes(spec, model, weights) - unmapped_bytes(blueprint)
        require_memory(blueprint.workers(), mapped, free_memory(), _advice(model, offloads))
        _convert(blueprint, progress)
    return blueprint


def _advice(model: ModelSpec | EmbedderSpec, offloads: Offloads) -> str:
    """For a mixture that is to be in memory whole."""
    serving = (offloads[Stage.PREFILL], offloads[Stage.DECODE])
    whole = isinstance(model, ModelSpec) and expert_parameters(model.decoder) and None in serving
    return ", or keep a part of the experts in memory: experts.budget auto" if whole else ""


def _settled(blueprint: Blueprint, free: int) -> Blueprint:
    """The same with a number where experts have a budget of `auto`, or without one where all of them fit."""
    if isinstance(blueprint.model, EmbedderSpec) or blueprint.form is None:
        return blueprint
    workers = blueprint.workers()
    fixed = sum(
        w.ranks * (PROCESS_BYTES + (w.settings.kv_cache_bytes if w.settings.decodes else 0)) + w.copies
        for w in workers
    )
    decoder, form, stages = blueprint.model.decoder, blueprint.form, blueprint.stages
    return replace(blueprint, offloads=settle(blueprint.offloads, decoder, form, stages, fixed=fixed, free=free))


def _form(
    spec: ClusterSpec, files: ModelFiles, model: ModelSpec | EmbedderSpec, form: Quantization
) -> WeightForm | None:
    """Of weights of which experts have a budget, on this machine; None for an embedder."""
    if isinstance(model, EmbedderSpec):
        return None
    return WeightForm.of(files, model.decoder, form, choose_dtype(spec.dtype, read_config(files)))


def _require_ranks(spec: ClusterSpec, model: ModelSpec | EmbedderSpec, stages: dict[Stage, StageResources]) -> None:
    """Refuses ranks among which the model cannot be divided."""
    for resources in stages.values():
        if resources.replicas and isinstance(model, ModelSpec):
            parallelism = parallelism_of(resources.ranks, spec)
            require_divisible(model.decoder, parallelism)


def _convert(blueprint: Blueprint, progress: Progress) -> None:
    spec, files = blueprint.spec, blueprint.files
    if isinstance(blueprint.model, EmbedderSpec):
        load_embedder(files, spec.dtype, progress=progress)
        return
    convert_weights(files, spec.dtype, spec.quantization, spec.adapter_folders, progress=progress)
    settings = [worker.settings for worker in blueprint.workers()]
    for offload in {each.offload for each in settings if each.offload and each.parallelism.tensor == 1}:
        pack_experts(files, spec.dtype, spec.quantization, offload, progress=progress)


def _terms(spec: ClusterSpec) -> Terms:
    return Terms(
        cluster=spec.ray.cluster_name or spec.name,
        drain_seconds=spec.router.drain_seconds,
        require_room=_require_room if spec.ray.address is None else lambda workers: None,
    )


def _require_room(workers: tuple[DesiredWorker, ...]) -> None:
    """Refuses workers that are added to a cluster on this machine; the others have mapped the weights already."""
    require_memory(workers, 0, free_memory())


def _rearm_signals() -> None:
    """Puts this process's handler of SIGTERM back: Ray has put in its place one that reports a crash and aborts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
