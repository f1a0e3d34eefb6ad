"""From the packed file through host memory into slots of an accelerator."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from triptych.experts.cache import Load
from triptych.experts.store import PackedStore
from triptych.experts.torch.cold import Cold
from triptych.experts.torch.copier import Copier
from triptych.experts.torch.host_slots import Key
from triptych.experts.torch.host_tier import HostTier
from triptych.experts.torch.plan import Halves, Here, Plan, PlannedExperts
from triptych.experts.torch.reads import Arrived
from triptych.experts.torch.shipping import Parcel, Shipping
from triptych.kernels import Experts

_AHEAD = 2
"""Copies under way to which one is added that nobody waits for: what is asked for then waits for no more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """An expert in host memory, or being read into it, that is to come into a slot of the device."""

    load: Load
    parcel: Parcel


class DeviceLane:
    """See `Lane`. Demand is answered at once; `planned_moe` computes with what is there while the rest comes.

    Args:
        store: With the layouts of the experts, exact and rounded.
        memory: [N, B] uint8, the slots, on the device.
        tier: Host memory.
        copier: To the device.
        cold: Decides who is not copied.
    """

    def __init__(self, store: PackedStore, memory: Tensor, tier: HostTier, copier: Copier, cold: Cold) -> None:
        self.memory = memory
        self.stall_ns = 0
        self._store = store
        self._tier = tier
        self._copier = copier
        self._cold = cold
        self._shipping = Shipping(copier, tier, self.memory)
        self._waiting: dict[int, _Waiting] = {}
        self._sent: dict[int, Halves] = {}
        self._arrived: list[Arrived] = []
        self._plans: dict[int, Plan] = {}
        self._lent: list[int] = []
        """Slots of host memory that the CPU is to compute with, for the latest demand."""

    def experts(self, layer: int, tables: Experts) -> Experts:
        """See `Lane.experts`."""
        return PlannedExperts(tables.gate, tables.up, tables.down, plan=lambda: self._plans[layer])

    def begin(self, load: Load, number: int, *, rounded: bool) -> bool:
        """See `Lane.begin`."""
        if load.cause == "demand":
            self._take_back(self._lent)
        self._shipping.collect()
        key = Key(load.layer, number, rounded)
        is_read = not self._tier.has(key)
        host = self._tier.hold(key, load.cause)
        if host is None:
            self._shipping.finish()
            host = self._tier.hold(key, load.cause)
            assert host is not None, "fewer slots of host memory than of the device"
        self._sent.pop(load.slot, None)
        self._waiting[load.slot] = _Waiting(load, self._parcel(load, host))
        return is_read

    def promote(self, slot: int) -> None:
        """See `Lane.promote`."""
        if slot in self._waiting:
            self._tier.promote(self._waiting[slot].parcel.host)

    def drop(self, slot: int) -> bool:
        """See `Lane.drop`."""
        waiting = self._waiting.get(slot)
        if waiting is None:
            return False
        host = waiting.parcel.host
        if not self._tier.drop(host):
            if not self._tier.there(host):
                return False
            self._tier.release(host)
        del self._waiting[slot]
        return True

    def demand(self, layer: int, ids: Tensor, slots: Mapping[int, int], kept: Collection[int]) -> tuple[int, ...]:
        """See `Lane.demand`."""
        self._take_back(self._lent)
        waiting = {expert: self._waiting[slot] for expert, slot in slots.items() if slot in self._waiting}
        ready = {expert: each for expert, each in waiting.items() if self._tier.intact(each.parcel.host)}
        here = self._here(ids, {expert: each for expert, each in ready.items() if expert not in kept})
        copied = [expert for expert in ready if expert not in here.experts]
        sent = [expert for expert, slot in slots.items() if slot in self._sent and not self._over(slot)]
        self._send([ready[expert] for expert in copied])
        reading = [expert for expert in waiting if expert not in ready]
        coming = [*sent, *copied, *reading]
        there = [expert for expert in slots if expert not in {*coming, *here.experts}]
        self._plans[layer] = Plan(there, coming, lambda expert: self._halves(slots[expert]), here)
        return tuple(slots[expert] for expert in here.experts)

    def arrived(self) -> list[Arrived]:
        """See `Lane.arrived`."""
        for waiting in list(self._waiting.values()):
            if self._shipping.copies >= _AHEAD:
                break
            if waiting.load.cause != "demand" and self._tier.there(waiting.parcel.host):
                self._halves(waiting.load.slot)
        arrived, self._arrived = self._arrived, []
        return arrived

    def wait(self, slots: Iterable[int]) -> None:
        """See `Lane.wait`."""
        for slot in slots:
            self._halves(slot)

    def close(self) -> None:
        """See `Lane.close`."""
        self._tier.close()
        self._shipping.finish()
        self._copier.close()

    def _parcel(self, load: Load, host: int) -> Parcel:
        rounded = self._store.rounded if self._tier.rounded(host) else None
        coarse = None if rounded is None else rounded.layers[load.layer].layout
        return Parcel(host, load.slot, self._store.layers[load.layer].layout, coarse)

    def _halves(self, slot: int) -> Halves | None:
        """Events of the copy into a slot, which is begun if it was not; None where there is nothing to copy."""
        waiting = self._waiting.get(slot)
        if waiting is not None:
            started = time.perf_counter_ns()
            error = self._tier.wait(waiting.parcel.host)
            self.stall_ns += time.perf_counter_ns() - started
            if error is None:
                self._send([waiting])
            else:
                del self._waiting[slot]
                self._tier.release(waiting.parcel.host)
                self._arrived.append(Arrived(slot, error))
        return self._sent.get(slot)

    def _send(self, waiting: Sequence[_Waiting]) -> None:
        halves = self._shipping.send([each.parcel for each in waiting]) if waiting else []
        for each, events in zip(waiting, halves, strict=True):
            del self._waiting[each.load.slot]
            self._sent[each.load.slot] = events
            self._arrived.append(Arrived(each.load.slot, None))

    def _over(self, slot: int) -> bool:
        """Whether a copy is; nobody needs to wait for it then."""
        over = all(half.done() for half in self._sent[slot])
        if over:
            del self._sent[slot]
        return over

    def _here(self, ids: Tensor, passing: Mapping[int, _Waiting]) -> Here:
        rows = torch.bincount(ids.flatten().clamp_min(-1) + 1)[1:].tolist()
        misses = [each.parcel.miss(expert, rows[expert]) for expert, each in passing.items()]
        chosen = self._cold.choose(misses, self._shipping.queued)
        for expert in chosen:
            del self._waiting[passing[expert].load.slot]
        lent = self._lent = [passing[expert].parcel.host for expert in chosen]

        def computed(expanding: float, computing: float) -> None:
            self._cold.computed([miss for miss in misses if miss.expert in chosen], expanding, computing)
            self._take_back(lent)

        parcels = {expert: passing[expert].parcel for expert in sorted(chosen)}
        blobs = {expert: self._tier.blob(parcel.host) for expert, parcel in parcels.items()}
        return Here({expert: partial(parcel.expert, blobs[expert]) for expert, parcel in parcels.items()}, computed)

    def _take_back(self, lent: list[int]) -> None:
        """The CPU has computed with these slots of host memory, or will not: the step has failed before."""
        while lent:
            self._tier.release(lent.pop())
