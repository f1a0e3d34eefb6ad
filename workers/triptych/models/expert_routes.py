"""Which rows go to which rank, and where their results come back to. Index arithmetic; nothing is sent."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """The way of the rows of one rank to their experts and back; m records, n of them all.

    A row becomes one record for each rank that has any of its experts, however many it has there. Every expert of a
    row gives one result. Records and results are in the order of the ranks that they go to and come from.

    Attributes:
        rows: [m] int64, whose records they are; by rank, then by row.
        slots: [m, K] int32: which of its own slots a rank sends the row through, −1 where a choice is another rank's.
        places: [T, K] int64: where among all results each choice's is.
        counts: [ranks, 2] int64: records that go to each rank, results that come back from it.
    """

    rows: Tensor
    slots: Tensor
    places: Tensor
    counts: Tensor

    @classmethod
    def plan(cls, slots: Tensor, bounds: tuple[int, ...]) -> "Routes":
        """Of rows whose experts are known.

        Args:
            slots: [T, K] int32, the slots that rows go through, numbered over all ranks.
            bounds: The first slot of each rank, and the end of the last's.
        """
        ranks, device = len(bounds) - 1, slots.device
        edges = _edges(bounds, device)
        owners = torch.bucketize(slots, edges[1:-1], right=True)
        there = torch.zeros(len(slots), ranks, dtype=torch.bool, device=device).scatter_(1, owners, True)
        targets, rows = there.T.nonzero(as_tuple=True)
        mine = owners[rows] == targets.unsqueeze(1)
        local = torch.where(mine, slots[rows] - edges[targets].unsqueeze(1), -1).int()
        record, choice = mine.nonzero(as_tuple=True)
        places = torch.empty(slots.shape, dtype=torch.int64, device=device)
        places[rows[record], choice] = torch.arange(len(record), device=device)
        results = torch.bincount(owners.flatten(), minlength=ranks)
        return cls(rows, local, places, torch.stack((there.sum(0), results), dim=1))


@lru_cache(maxsize=64)
def _edges(bounds: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device, once: all layers have their slots alike."""
    return torch.tensor(bounds, dtype=torch.int32, device=device)
