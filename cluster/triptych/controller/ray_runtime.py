"""Ray, behind the few calls that Triptych needs of it."""

import asyncio
import logging
import os
import secrets
from typing import Any

from triptych.controller.actor import StageActor
from triptych.controller.desired import DesiredWorker
from triptych.controller.ray_actor import RayActor
from triptych.controller.runtime import FoundActor
from triptych.core.errors import FailedPrecondition, Unavailable

NAMESPACE = "triptych"
OBJECT_STORE_BYTES = 80 << 20  # Ray's minimum, nearly: no data of ours goes through it
SEAT_SECONDS = 30.0  # within which Ray has noticed that a controller has died
RETRY_SECONDS = 0.5


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
        self._cluster = ""
        self._seat: Any = None
        local: dict[str, Any] = {} if address else {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except Exception as error:  # Ray raises many classes here, from ValueError to its own
            where = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
            raise Unavailable(f"cannot {where}: {error}", field="ray.address") from error

    async def take_over(self, cluster: str) -> tuple[FoundActor, ...]:
        """Takes the seat of a cluster's controller; finds what an earlier one has left. A Ray of our own is empty.

        Raises:
            FailedPrecondition: another controller has the seat.
        """
        self._cluster = cluster
        if not self._joined:
            return ()
        for _ in range(round(SEAT_SECONDS / RETRY_SECONDS)):
            if self._take_seat():
                return tuple(await asyncio.to_thread(self._find))
            await asyncio.sleep(RETRY_SECONDS)
        raise FailedPrecondition(
            f"another `triptych serve` in this Ray cluster runs the workers of {cluster}; give this one another name",
            field="ray.cluster_name",
        )

    def place(self, worker: DesiredWorker, attempt: int) -> RayActor:
        """Has an actor started with the resources of the spec; all of a Ray of our own is ours."""
        settings = worker.settings
        remote = self._ray.remote(self._actor_class).options(
            # A name is taken for a while after its actor was killed: the last part sets the next one apart.
            name="/".join((self._cluster, settings.worker_id, str(attempt), secrets.token_hex(4))),
            lifetime="detached" if self._joined else None,
            num_cpus=worker.cpus if self._joined else 0,
            num_gpus=worker.gpus,
            max_restarts=0,  # the controller restarts: it has to learn the new address anyway
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

    def _take_seat(self) -> bool:
        """An actor that is not detached ends with this process, and only one at a time can have its name."""
        try:
            self._seat = self._ray.remote(Seat).options(name=f"{self._cluster}/seat", num_cpus=0).remote()
        except ValueError:
            return False
        return True

    def _find(self) -> list[FoundActor]:
        found = []
        for name in self._ray.util.list_named_actors():
            match name.removeprefix(f"{self._cluster}/").split("/"):
                case [worker_id, attempt, _] if name.startswith(f"{self._cluster}/") and attempt.isdecimal():
                    try:
                        handle = self._ray.get_actor(name)
                    except ValueError:  # it has ended meanwhile
                        continue
                    found.append(FoundActor(name, worker_id, int(attempt), RayActor(self._ray, handle, worker_id)))
                case _:
                    pass
        return found


class Seat:
    """Whoever has placed the actor of this class under a cluster's name is that cluster's one controller."""
