"""Placement groups for the ranks of a worker: what is asked of Ray, which is played."""

import asyncio
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from triptych.controller import ray_pack
from triptych.controller.actor import fingerprint
from triptych.controller.desired import DesiredWorker
from triptych.controller.ray_pack import Packs
from triptych.controller.ray_runtime import RayRuntime
from triptych.core.errors import FailedPrecondition, Unavailable
from triptych.core.fleet import Stage
from triptych.models.resolve import resolve
from triptych.parallel import Parallelism
from triptych.parallel.balance import BalancePolicy
from triptych.stages.pool import rank_settings
from triptych.stages.settings import StageSettings

RANK = {"CPU": 2.0, "GPU": 1.0}


@dataclass
class Group:
    bundles: list[dict[str, float]]
    strategy: str
    name: str
    lifetime: str | None
    node: str | None
    removed: bool = False
    placed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def bundle_count(self) -> int:
        return len(self.bundles)

    async def ready(self) -> None:
        await self.placed.wait()


class PlayedRay:
    """Nodes with GPUs, and the groups that were asked for; all of them are placed where they were wanted."""

    def __init__(self, **gpus: float) -> None:
        self.groups: list[Group] = []
        self.ended: set[str] = set()
        self.places = 100
        self.actors: list[str] = []
        self.names = 100
        self._gpus = gpus
        scheduling = SimpleNamespace(PlacementGroupSchedulingStrategy=lambda group, bundle: (group.name, bundle))
        self.util = SimpleNamespace(
            placement_group=self._place,
            placement_group_table=self._table,
            get_placement_group=self._get,
            remove_placement_group=lambda group: setattr(group, "removed", True),
            scheduling_strategies=scheduling,
        )

    def init(self, **options: Any) -> None:
        """Joined."""

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **of: SimpleNamespace(remote=partial(self._act, of["name"])))

    def _act(self, name: str, *arguments: Any, joined: bool) -> str:
        if len(self.actors) == self.names:
            raise ValueError(f"the name {name} is already taken")
        self.actors.append(name)
        return name

    def nodes(self) -> list[dict[str, Any]]:
        alive = [{"NodeID": n, "Resources": {"CPU": 64.0, "GPU": g}, "Alive": True} for n, g in self._gpus.items()]
        return [*alive, {"NodeID": "gone", "Resources": {"CPU": 64.0, "GPU": 64.0}, "Alive": False}]

    def _place(self, bundles: Any, strategy: str, name: str, lifetime: Any, _soft_target_node_id: Any) -> Group:
        if len(self.groups) == self.places:
            raise ConnectionError("the GCS does not answer")
        self.groups.append(Group(bundles, strategy, name, lifetime, _soft_target_node_id))
        return self.groups[-1]

    def _get(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name and name not in self.ended:
                return group
        raise ValueError(f"Failed to look up placement group with name: {name}")

    def _table(self) -> dict[str, Any]:
        return {
            group.name: {
                "name": group.name,
                "state": "REMOVED" if group.removed else "CREATED",
                "bundles_to_node_id": dict.fromkeys(range(group.bundle_count), group.node),
            }
            for group in self.groups
        }


async def reserve(ray: PlayedRay, worker: str, parallelism: Parallelism, lifetime: str | None = "detached") -> Packs:
    return await Packs.reserve(ray, "org/model", f"org/model/{worker}/0/ab12", parallelism, RANK, lifetime)


async def test_all_ranks_of_a_worker_are_placed_together_and_workers_apart() -> None:
    ray = PlayedRay(a=4, b=4, c=1)
    first, second = [await reserve(ray, f"decode-{n}", Parallelism(2, 2)) for n in range(2)]
    assert [(g.strategy, g.bundles, g.lifetime) for g in ray.groups] == [("STRICT_PACK", [RANK] * 4, "detached")] * 2
    assert [group.node for group in ray.groups] == ["a", "b"]
    assert first.strategies() == [("org/model/decode-0/0/ab12/0", bundle) for bundle in range(4)]
    first.remove()
    assert [group.removed for group in ray.groups] == [True, False]
    third = await reserve(ray, "decode-2", Parallelism(2))
    assert [group.node for group in third.groups] == ["a"]
    assert second.groups == (ray.groups[1],)


async def test_rows_go_to_nodes_of_their_own_where_no_node_has_room_for_all() -> None:
    ray = PlayedRay(a=2, b=3)
    packs = await reserve(ray, "decode-0", Parallelism(2, 2), None)
    placed = [(group.node, group.bundle_count, group.lifetime) for group in packs.groups]
    assert placed == [("a", 2, None), ("b", 2, None)]
    assert [name for name, _ in packs.strategies()] == [group.name for group in packs.groups for _ in range(2)]


async def test_ranks_are_told_on_how_many_nodes_they_are() -> None:
    ray, here = PlayedRay(a=2, b=3), resolve("builtin:smollm2-moe")
    settings = StageSettings("decode-0", Stage.DECODE, here, balance=BalancePolicy(window=7))
    for parallelism, nodes in ((Parallelism(1, 2), 1), (Parallelism(2, 2), 2), (Parallelism(1, 4), 2)):
        told = (await reserve(ray, "decode-0", parallelism)).told(replace(settings, parallelism=parallelism))
        assert told.balance == BalancePolicy(window=7, nodes=nodes)
        assert rank_settings(told).balance.nodes == nodes
        assert fingerprint(told) == fingerprint(replace(told, balance=BalancePolicy(window=7)))


async def test_ranks_that_no_node_has_room_for_are_refused_and_nothing_is_asked_for() -> None:
    ray = PlayedRay(a=2, b=3)
    with pytest.raises(FailedPrecondition, match="room for 3 of 2 CPU, 1 GPU each"):
        await reserve(ray, "decode-0", Parallelism(4))
    assert ray.groups == []


async def test_those_of_an_earlier_attempt_are_found_by_its_name() -> None:
    ray = PlayedRay(a=8)
    await reserve(ray, "decode-0", Parallelism(2))
    await reserve(ray, "decode-10", Parallelism(2))
    found = Packs.find(ray, "org/model/decode-0/0/ab12")
    assert [group.name for group in found.groups] == ["org/model/decode-0/0/ab12/0"]
    found.remove()
    assert Packs.find(ray, "org/model/decode-0/0/ab12").groups == ()
    assert Packs.find(ray, "org/model/decode-1").groups == ()


async def test_one_that_has_just_gone_does_not_keep_the_others_from_being_found() -> None:
    ray = PlayedRay(a=2, b=3)
    await reserve(ray, "decode-0", Parallelism(2, 2))
    ray.ended.add(ray.groups[0].name)
    assert Packs.find(ray, "org/model/decode-0/0/ab12").groups == (ray.groups[1],)


async def test_nothing_stays_reserved_when_not_everything_can_be() -> None:
    ray = PlayedRay(a=2, b=3)
    ray.places = 1
    with pytest.raises(ConnectionError):
        await reserve(ray, "decode-0", Parallelism(2, 2))
    assert [group.removed for group in ray.groups] == [True]


@pytest.mark.parametrize("actors", [0, 1, 3])
async def test_nothing_stays_reserved_when_not_every_rank_can_be_placed(
    actors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = PlayedRay(a=2, b=3)
    monkeypatch.setitem(sys.modules, "ray", ray)
    runtime = RayRuntime("head:6379", 1.0)
    settings = StageSettings("decode-0", Stage.DECODE, resolve("builtin:smollm2-moe"), parallelism=Parallelism(2, 2))
    worker = DesiredWorker(settings, cpus=2.0, gpus=1.0)
    ray.names = actors
    with pytest.raises(ValueError, match="already taken"):
        await runtime.place(worker, 0)
    assert ([group.removed for group in ray.groups], len(ray.actors)) == ([True, True], actors)
    ray.names = 100
    await runtime.place(worker, 1)
    assert ([group.removed for group in ray.groups[2:]], len(ray.actors)) == ([False, False], actors + 4)


async def test_workers_that_are_placed_at_once_go_to_nodes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PlayedRay(a=4, b=4, c=4)
    monkeypatch.setitem(sys.modules, "ray", ray)
    runtime = RayRuntime("head:6379", 1.0)
    files = resolve("builtin:smollm2-moe")
    settings = [StageSettings(f"decode-{n}", Stage.DECODE, files, parallelism=Parallelism(2)) for n in range(3)]
    await asyncio.gather(*(runtime.place(DesiredWorker(one, cpus=2.0, gpus=1.0), 0) for one in settings))
    assert [group.node for group in ray.groups] == ["a", "b", "c"]


async def test_a_cluster_that_is_full_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PlayedRay(a=4)
    packs = await reserve(ray, "decode-0", Parallelism(2))
    ray.groups[0].placed.set()
    await packs.ready()
    monkeypatch.setattr(ray_pack, "PLACE_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="no room for 2 ranks"):
        await (await reserve(ray, "decode-1", Parallelism(2))).ready()
