"""Ray, behind the few calls that Triptych needs of it."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable
from typing import Any, Protocol, cast

from triptych.controller.actor import StageActor, Started
from triptych.controller.desired import DesiredWorker
from triptych.core.errors import FailedPrecondition, TriptychError, Unavailable

OBJECT_STORE_BYTES = 80 << 20  # Ray's minimum, nearly: no data of ours goes through it
START_SECONDS = 600.0
STOP_SECONDS = 10.0


class Actor(Protocol):
    """One placed actor."""

    async def start(self) -> Started:
        """Loads the model and serves.

        Raises:
            TriptychError: what the worker raised, or Unavailable when its process died.
        """

    async def wait(self) -> None:
        """Returns when the process has ended, however that came about."""

    async def stop(self) -> None:
        """Ends the worker in order, or its process when it does not answer."""


class Runtime(Protocol):
    """Where actors are placed; tests use one without Ray."""

    def place(self, worker: DesiredWorker, attempt: int) -> Actor:
        """Has an actor started; returns at once."""

    def close(self) -> None:
        """Lets go of the runtime."""


class RayRuntime:
    """Starts Ray on this machine, or joins a running cluster.

    Args:
        address: Of a running Ray cluster; None starts one.
        cpus: Logical processors of a started one.
        actor_class: What runs in each worker's process.

    Raises:
        FailedPrecondition: Ray is not installed.
        Unavailable: Ray does not start, or there is none at the address.
    """

    def __init__(self, address: str | None, cpus: float, actor_class: type[StageActor] = StageActor) -> None:
        os.environ.setdefault("PYTHONSAFEPATH", "1")  # Ray's own processes inherit it
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise FailedPrecondition("Ray is not installed; install it with: pip install ray") from error
        logging.getLogger("ray").setLevel(logging.ERROR)  # its warnings are for people who call Ray themselves
        self._ray = ray
        self._actor_class = actor_class
        self._joined = address is not None
        local: dict[str, Any] = {} if address else {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=address,
                namespace="triptych",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except Exception as error:  # Ray raises many classes here, from ValueError to its own
            where = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
            raise Unavailable(f"cannot {where}: {error}", field="ray.address") from error

    def place(self, worker: DesiredWorker, attempt: int) -> "RayActor":
        """Has an actor started with the resources of the spec."""
        settings = worker.settings
        remote = self._ray.remote(self._actor_class).options(
            name=f"{settings.worker_id}/{os.getpid()}/{attempt}",
            num_cpus=worker.cpus,
            num_gpus=worker.gpus,
            max_restarts=0,  # the controller restarts: it has to learn the new address anyway
            max_concurrency=3,
            runtime_env={
                "env_vars": {
                    "PYTHONSAFEPATH": "1",
                    "OMP_NUM_THREADS": str(settings.threads),
                    "GOMP_SPINCOUNT": "1000",  # workers share cores: a waiting thread soon lets others have its own
                    "TOKENIZERS_PARALLELISM": "false",
                }
            },
        )
        return RayActor(self._ray, remote.remote(settings, joined=self._joined), settings.worker_id)

    def close(self) -> None:
        """Ends a Ray that was started here, or leaves the cluster."""
        self._ray.shutdown()


class RayActor:
    """A handle to one `StageActor`."""

    def __init__(self, ray: Any, handle: Any, worker_id: str) -> None:
        self._ray = ray
        self._handle = handle
        self._worker_id = worker_id

    async def start(self) -> Started:
        """See `Actor.start`."""
        return cast(Started, await self._call(self._handle.start.remote(), within=START_SECONDS))

    async def wait(self) -> None:
        """See `Actor.wait`."""
        with contextlib.suppress(TriptychError):
            await self._call(self._handle.wait.remote(), within=None)

    async def stop(self) -> None:
        """See `Actor.stop`."""
        with contextlib.suppress(TriptychError):
            await self._call(self._handle.stop.remote(), within=STOP_SECONDS)
        await asyncio.to_thread(self._ray.kill, self._handle)

    async def _call(self, reference: Awaitable[object], within: float | None) -> object:
        exceptions = self._ray.exceptions
        try:
            return await asyncio.wait_for(reference, within)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, TriptychError):
                raise error.cause from None
            raise Unavailable(f"worker {self._worker_id} failed: {error.cause}") from error
        except exceptions.RayError as error:
            raise Unavailable(f"worker {self._worker_id} died: {str(error).splitlines()[0]}") from error
        except TimeoutError as error:
            raise Unavailable(f"worker {self._worker_id} did not answer within {within:g} seconds") from error
