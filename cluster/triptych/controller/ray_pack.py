"""Placement groups of Ray: ranks that are placed together or not at all."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Any

from triptych.controller.placement import Node, Resources, packs, quietest
from triptych.core.errors import Unavailable
from triptych.parallel import Parallelism
from triptych.stages.settings import StageSettings

PLACE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Packs:
    """The placement groups of one worker, each on one node.

    Attributes:
        ray: The module.
        groups: Ray's, in the order of the ranks.
    """

    ray: Any
    groups: tuple[Any, ...]

    @classmethod
    async def reserve(
        cls, ray: Any, cluster: str, name: str, parallelism: Parallelism, rank: Resources, lifetime: str | None
    ) -> "Packs":
        """Asks for the resources of all ranks, or for none; does not wait for them.

        One call at a time: each looks where the groups of those before it are.

        Args:
            ray: The module.
            cluster: Name of the cluster.
            name: Of the worker's attempt, which begins with the cluster's.
            parallelism: The worker's.
            rank: What each rank takes.
            lifetime: "detached" to outlive this process.

        Raises:
            FailedPrecondition: as `placement.packs`.
        """
        # Only what changes nothing leaves the event loop: who is cancelled meanwhile has reserved nothing.
        nodes, taken = await asyncio.to_thread(_look, ray, cluster)
        groups: list[Any] = []
        try:
            for number, count in enumerate(packs(parallelism, rank, nodes)):
                node = quietest(nodes, rank, count, taken)
                taken += [node] if node else []
                groups.append(
                    ray.util.placement_group(
                        [dict(rank)] * count, "STRICT_PACK", f"{name}/{number}", lifetime, _soft_target_node_id=node
                    )
                )
        except Exception:
            await asyncio.to_thread(cls(ray, tuple(groups)).remove)
            raise
        return cls(ray, tuple(groups))

    @classmethod
    def find(cls, ray: Any, name: str) -> "Packs":
        """Those of an attempt that another controller has placed."""
        found = []
        for of in ray.util.placement_group_table().values():
            if of["state"] != "REMOVED" and of["name"].startswith(f"{name}/"):
                with contextlib.suppress(ValueError):  # it has gone meanwhile
                    found.append(ray.util.get_placement_group(of["name"]))
        return cls(ray, tuple(found))

    def told(self, settings: StageSettings) -> StageSettings:
        """What the ranks have to know of where they are: experts are balanced node by node."""
        return replace(settings, balance=replace(settings.balance, nodes=len(self.groups)))

    def strategies(self) -> list[Any]:
        """Where each rank goes, as Ray wants it said."""
        strategy = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        return [strategy(group, bundle) for group in self.groups for bundle in range(group.bundle_count)]

    async def ready(self) -> None:
        """Returns when every rank has its place.

        Raises:
            Unavailable: the nodes have no room now.
        """
        try:
            await asyncio.wait_for(asyncio.gather(*(group.ready() for group in self.groups)), PLACE_SECONDS)
        except TimeoutError as error:
            ranks = sum(group.bundle_count for group in self.groups)
            raise Unavailable(f"no room for {ranks} ranks in the Ray cluster within {PLACE_SECONDS:g} s") from error

    def remove(self) -> None:
        """Gives the resources back, and ends every process that has some of them."""
        for group in self.groups:
            self.ray.util.remove_placement_group(group)


def _look(ray: Any, cluster: str) -> tuple[list[Node], list[str]]:
    """The nodes that are alive, and those on which packs of a cluster are."""
    table = ray.util.placement_group_table().values()
    packs_there = [of for of in table if of["state"] == "CREATED" and of["name"].startswith(f"{cluster}/")]
    nodes = [Node(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return nodes, [next(iter(of["bundles_to_node_id"].values())) for of in packs_there]
