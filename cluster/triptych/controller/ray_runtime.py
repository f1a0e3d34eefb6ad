"""Ray, behind the few calls that Triptych needs of it."""

import asyncio
import contextlib
import logging
import os
import secrets
from collections import defaultdict
from typing import Any

from triptych.controller.actor import StageActor
from triptych.controller.desired import DesiredWorker
from triptych.controller.rank_actor import RankActor
from triptych.controller.ray_actor import RayActor
from triptych.controller.ray_group import RayGroup
from triptych.controller.ray_pack import Packs
from triptych.controller.runtime import Actor, FoundActor
from triptych.core.errors import FailedPrecondition, Unavailable
from triptych.stages.settings import StageSettings

NAMESPACE = "triptych"
OBJECT_STORE_BYTES = 80 << 20  # Ray's minimum, nearly: no data of ours goes through it
SEAT_SECONDS = 30.0  # within which Ray has noticed that a controller has died
RETRY_SECONDS = 0.5
LEAST = 0.001  # of a processor: Ray reserves no place for nothing


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
        self._reserving = asyncio.Lock()
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

    async def place(self, worker: DesiredWorker, attempt: int) -> Actor:
        """Has an actor for each rank started with the resources of the spec; all of a Ray of our own is ours."""
        # A name is taken for a while after its actor was killed: the last part sets the next one apart.
        name = "/".join((self._cluster, worker.settings.worker_id, str(attempt), secrets.token_hex(4)))
        if worker.ranks > 1:
            return await self._place_group(worker, name)
        options = self._options(worker.settings) | {"num_cpus": worker.cpus if self._joined else 0}
        options |= {"num_gpus": worker.gpus, "scheduling_strategy": "SPREAD" if self._joined else "DEFAULT"}
        return self._actor(self._actor_class, name, options, worker.settings.worker_id, worker.settings)

    async def _place_group(self, worker: DesiredWorker, name: str) -> RayGroup:
        """Nothing is placed where not everything can be; in a Ray of our own a rank takes next to nothing."""
        rank = {"CPU": worker.cpus if self._joined else LEAST} | ({"GPU": worker.gpus} if worker.gpus else {})
        lifetime = "detached" if self._joined else None
        worker_id, parallelism = worker.settings.worker_id, worker.settings.parallelism
        async with self._reserving:
            packs = await Packs.reserve(self._ray, self._cluster, name, parallelism, rank, lifetime)
        settings = packs.told(worker.settings)
        options = self._options(settings) | {"num_cpus": rank["CPU"], "num_gpus": worker.gpus}
        try:
            first, *others = (options | {"scheduling_strategy": place} for place in packs.strategies())
            leader = self._actor(self._actor_class, name, first, f"{worker_id} rank 0", settings)
            followers = [
                self._actor(RankActor, f"{name}/{number}", other, f"{worker_id} rank {number}", settings, number)
                for number, other in enumerate(others, 1)
            ]
        except Exception:  # nobody else knows of the groups; the actors that are there end with them
            await asyncio.to_thread(packs.remove)
            raise
        return RayGroup(leader, tuple(followers), packs)

    def _actor(self, kind: type, name: str, options: dict[str, Any], said: str, *arguments: object) -> RayActor:
        """Has one actor started. The controller restarts: it has to learn the new address anyway."""
        lifetime = "detached" if self._joined else None
        remote: Any = self._ray.remote(kind).options(name=name, lifetime=lifetime, max_restarts=0, **options)
        return RayActor(self._ray, remote.remote(*arguments, joined=self._joined), said)

    def _options(self, settings: StageSettings) -> dict[str, Any]:
        variables = {
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": str(settings.threads),
            "GOMP_SPINCOUNT": "1000",  # workers share cores: a waiting thread soon lets others have its own
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {"runtime_env": {"env_vars": variables}}

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
        """What earlier attempts have left: of each the actors of its ranks, rank 0 first if it is there."""
        handles: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for name in sorted(self._ray.util.list_named_actors(), key=lambda name: (len(name), name)):
            match name.removeprefix(f"{self._cluster}/").split("/"):
                case [_, attempt, _, *_] as parts if name.startswith(f"{self._cluster}/") and attempt.isdecimal():
                    with contextlib.suppress(ValueError):  # it has ended meanwhile
                        handles[tuple(parts[:3])].append(self._ray.get_actor(name))
                case _:
                    pass
        return [self._found(*parts, handles=found) for parts, found in handles.items()]

    def _found(self, worker_id: str, attempt: str, token: str, *, handles: list[Any]) -> FoundActor:
        name = "/".join((self._cluster, worker_id, attempt, token))
        first, *others = (RayActor(self._ray, handle, worker_id) for handle in handles)
        packs = Packs.find(self._ray, name)
        actor = RayGroup(first, tuple(others), packs) if packs.groups else first
        return FoundActor(name, worker_id, int(attempt), actor)


class Seat:
    """Whoever has placed the actor of this class under a cluster's name is that cluster's one controller."""
