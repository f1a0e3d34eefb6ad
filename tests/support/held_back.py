"""A compiled pool whose reads wait until they are asked for, beside the same decisions in Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.support.random_experts import Made
from tests.support.resident import fresh
from triptych.experts.cache import Cause, Empty, ExpertCache, Load, Loading, Ready, Slot
from triptych.experts.native.layers import Blobs, layer_experts, tables
from triptych.experts.native.memory import open_file, slots
from triptych.experts.settings import PolicyName
from triptych.experts.torch.candidates import candidates
from triptych.kernels.expert_slots import WAITED_PLACES
from triptych.kernels.native.residency import ResidencyPool
from triptych.kernels.native.residency_args import SlotOut

_CAUSES: tuple[Cause, ...] = ("demand", "prefetch", "warm")


def open_pool(
    made: Made, count: int, quotas: Sequence[int], policy: PolicyName, split: int = 1 << 40, readers: int = 0
) -> ResidencyPool:
    """It reads when `read` is called, or by threads."""
    memory, waited = slots(count, made.store.blob_bytes), torch.zeros(WAITED_PLACES, dtype=torch.int64)
    layers = [
        layer_experts(
            layer.layout,
            tables(layer.layout, layer.experts, memory, waited),
            Blobs.of(made.store, number, range(layer.experts)),
            quota,
            scores,
        )
        for number, (layer, quota, scores) in enumerate(
            zip(made.store.layers, quotas, fresh(policy, [layer.experts for layer in made.store.layers]), strict=True)
        )
    ]
    return ResidencyPool(memory, waited, layers, open_file(made.path), readers, split)


@dataclass
class Expected:
    """What the pool is to do."""

    cache: ExpertCache
    most: int
    demanded: list[Load] = field(default_factory=list)
    speculative: list[Load] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("hits", "covered", "misses"), 0))

    def ensure(self, layer: int, ids: Tensor) -> None:
        wanted = sorted({expert for expert in ids.flatten().tolist() if expert >= 0})
        mine = [load for load in self.speculative if load.layer == layer]
        promoted = [load for load in mine if load.expert in wanted]
        unwanted = [load for load in mine if load.cause == "prefetch" and load not in promoted]
        for load in (*promoted, *unwanted):
            self.speculative.remove(load)
        for load in unwanted:
            self.cache.dropped(load.slot)
        self.demanded += promoted
        self.cache.reach(layer, wanted)
        self.wave()

    def wave(self) -> None:
        """What the demand goes on with."""
        ensured = self.cache.wave(self._make_room)
        self.demanded += ensured.loads
        self.counts["hits"] += ensured.hits
        self.counts["covered"] += ensured.covered
        self.counts["misses"] += len(ensured.loads)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        self.speculative += self.cache.prefetch(layer, candidates(scores, top), self.most)

    def warm(self, layer: int, expert: int) -> None:
        if (load := self.cache.warm(layer, expert)) is not None:
            self.speculative.append(load)

    def read(self) -> bool:
        queue = self.demanded or self.speculative
        if queue:
            self.cache.loaded(queue.pop(0).slot)
            return True
        return False

    def _make_room(self) -> None:
        queued = [load for load in self.speculative if load.cause == "prefetch"]
        for load in queued:
            self.speculative.remove(load)
            self.cache.dropped(load.slot)
        if not queued and not self.cache.release_one():
            assert self.read()

    def rebind(self, layer: int, changed: Sequence[int], places: Sequence[int]) -> None:
        for load in [load for load in self.speculative if load.layer == layer]:
            self.speculative.remove(load)
            self.cache.dropped(load.slot)
        for expert in changed:
            if (slot := self.cache.where(layer, expert)) is not None:
                self.cache.dropped(slot)
        values = self.cache.scores[layer].values
        self.cache.scores[layer].values = [0.0 if place < 0 else values[place] for place in places]


def as_slot(slot: SlotOut) -> Slot:
    """A slot of the pool as a state."""
    match slot.state:
        case 0:
            return Empty()
        case 1:
            return Loading(slot.layer, slot.expert, _CAUSES[slot.cause])
        case _:
            return Ready(slot.layer, slot.expert)
