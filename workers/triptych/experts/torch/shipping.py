"""Copies of experts from host memory into slots of a device, and what they hold until they are over."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from triptych.experts.blob import BlobLayout, Expert
from triptych.experts.store import expand, expand_section
from triptych.experts.torch.copier import Copier, Event
from triptych.experts.torch.finish import Miss
from triptych.experts.torch.host_tier import HostTier
from triptych.experts.torch.plan import Halves


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """An expert in a slot of host memory, for a slot of the device.

    Attributes:
        host: The former.
        slot: The latter.
        layout: That it has in the device.
        coarse: That it has in host memory, if it is rounded there.
    """

    host: int
    slot: int
    layout: BlobLayout
    coarse: BlobLayout | None

    @property
    def nbytes(self) -> int:
        """That are copied."""
        return (self.coarse or self.layout).nbytes

    def miss(self, expert: int, rows: int) -> Miss:
        """What either way would cost, for so many rows of a step; it has this local number."""
        return Miss(expert, rows, self.nbytes, self.layout.nbytes, rounded=self.coarse is not None)

    def expert(self, blob: Tensor) -> Expert:
        """It, of what host memory holds of it; if that is rounded, what it stands for, in memory of its own."""
        if self.coarse is None:
            return self.layout.view(blob)
        exact = torch.empty(self.layout.nbytes, dtype=torch.uint8)
        expand(self.coarse.view(blob), self.layout, exact)
        return self.layout.view(exact)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    halves: Halves
    host: int
    nbytes: int


class Shipping:
    """Gives copies to the device, and host memory back when they are over.

    Args:
        copier: To the device.
        tier: Host memory.
        memory: [N, B] uint8, the slots of the device.
    """

    def __init__(self, copier: Copier, tier: HostTier, memory: Tensor) -> None:
        self._copier = copier
        self._tier = tier
        self._memory = memory
        self._held: list[_Held] = []

    def send(self, parcels: Sequence[Parcel]) -> list[Halves]:
        """Copies gate and up of all of them, then down of all of them.

        What the device was given to compute so far may still read what is in the slots.
        """
        fence = self._copier.fence()
        firsts = [self._copy(parcel, 0, fence) for parcel in parcels]
        seconds = [self._copy(parcel, 1, fence) for parcel in parcels]
        halves = list(zip(firsts, seconds, strict=True))
        self._held += [
            _Held(events, parcel.host, parcel.nbytes) for events, parcel in zip(halves, parcels, strict=True)
        ]
        return halves

    @property
    def copies(self) -> int:
        """Experts under way."""
        self.collect()
        return len(self._held)

    @property
    def queued(self) -> int:
        """Bytes of them."""
        self.collect()
        return sum(held.nbytes for held in self._held)

    def collect(self) -> None:
        """Releases the host memory of copies that are over."""
        held, self._held = self._held, []
        for each in held:
            if all(event.done() for event in each.halves):
                self._tier.release(each.host)
            else:
                self._held.append(each)

    def finish(self) -> None:
        """Returns when all copies are over."""
        for held in self._held:
            for event in held.halves:
                event.synchronize()
        self.collect()

    def _copy(self, parcel: Parcel, half: int, fence: Event) -> Event:
        blob, exact = self._tier.blob(parcel.host), parcel.layout.sections[half]
        target = exact.of(self._memory[parcel.slot])
        if parcel.coarse is None:
            return self._copier.copy(exact.of(blob), target, fence)
        coarse = parcel.coarse.sections[half]
        return self._copier.copy(coarse.of(blob), target, fence, partial(expand_section, coarse, exact))
