"""Which copy of an expert a row goes to, as tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.parallel.balance.placement import Placement


@dataclass(frozen=True, slots=True, eq=False)
class Replicas:
    """The copies of a layer's experts, as one rank sees them.

    Attributes:
        slots: [E, C] int32, the slots that the rank may send an expert's rows to.
        counts: [E] int32, how many of them there are.
        bounds: [ranks + 1], the number of each rank's first slot, and how many slots there are.
        rank: Which one's view it is.
    """

    slots: Tensor
    counts: Tensor
    bounds: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, placement: Placement, rank: int, device: torch.device) -> "Replicas":
        """Of the copies that are on the rank itself one, if there is any; else all."""
        bounds, found = placement.bounds, [list[int]() for _ in placement.copies()]
        for slot, expert in enumerate(placement.by_slot):
            found[expert].append(slot)
        near = [[slot for slot in slots if bounds[rank] <= slot < bounds[rank + 1]][:1] or slots for slots in found]
        most = max(map(len, near))
        padded = [slots + slots[:1] * (most - len(slots)) for slots in near]
        slots, counts = (torch.tensor(x, dtype=torch.int32, device=device) for x in (padded, [*map(len, near)]))
        return cls(slots, counts, bounds, rank)

    def choose(self, ids: Tensor) -> Tensor:
        """The slot for each choice of an expert: rows take the copies in turn, every rank beginning with another.

        Args:
            ids: [T, K] int32.

        Returns:
            [T, K] int32.
        """
        if self.slots.shape[1] == 1:
            return self.slots[:, 0][ids]
        turn = torch.arange(self.rank, self.rank + len(ids), dtype=torch.int32, device=ids.device)
        return self.slots[ids, turn.unsqueeze(1) % self.counts[ids]]
