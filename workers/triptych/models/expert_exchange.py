"""The way of rows to experts on other ranks and back: counts first, then rows, then results.

Of what could travel this is the least that leaves no sum to the ranks that experts happen to be on. With K choices
among p ranks a row reaches (p − 1)(1 − (1 − 1/p)^K) others on average and never more than min(K, p − 1): sending it
once per choice, or to everybody, would be more. Sums of the results per rank would be fewer bytes on the way back;
but then a move of an expert would change the order of additions, and could change a token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from triptych.kernels import Experts, Gating, gather_rows, moe
from triptych.models.expert_routes import Routes
from triptych.models.payload import Packing, aligned
from triptych.parallel import Group
from triptych.parallel.mesh import Payload

Ready: TypeAlias = Callable[[Tensor, Tensor], Experts]
"""Gives what rows [n, H] that have come here are computed with, of slots [n, K] int32 of this rank's, −1 for none."""

AT_ONCE = 1 << 14
"""Choices that are computed together: as many copies of rows there are at a time."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Sends rows to experts, computes those of others, and brings results home; all ranks at once.

    Attributes:
        group: The ranks that divide the experts.
        payload: What rows and results travel as.
        gating: Of the experts.
    """

    group: Group
    payload: Payload
    gating: Gating

    def __call__(self, x: Tensor, routes: Routes, ready: Ready) -> Tensor:
        """A result [n, H] of the type of `x` for each choice of each row, in the order of the routes.

        Args:
            x: [T, H], contiguous.
            routes: Of its rows.
            ready: Gives this rank's experts.
        """
        (sent, due), (received, owed) = self._agree(routes.counts)
        packing = Packing(self.payload, x.dtype, x.shape[1])
        records = self._travel(_records(packing.pack(x), routes), sent, received)
        slots = records[:, : 4 * routes.slots.shape[1]].view(torch.int32).contiguous()
        rows = packing.unpack(records[:, -packing.nbytes :])
        results = _compute(rows, slots, ready(rows, slots), self.gating)
        return packing.unpack(self._travel(packing.pack(results), owed, due))

    def _agree(self, counts: Tensor) -> list[list[list[int]]]:
        """Records and results by rank: of this rank's rows, and of the others'."""
        theirs, ones = torch.empty_like(counts), [1] * self.group.size
        self.group.all_to_all(counts, ones, theirs, ones)
        both: list[list[list[int]]] = torch.stack((counts.T, theirs.T)).tolist()
        return both

    def _travel(self, records: Tensor, sent: list[int], received: list[int]) -> Tensor:
        out = records.new_empty(sum(received), records.shape[1])
        self.group.all_to_all(records, sent, out, received)
        return out


def _records(packed: Tensor, routes: Routes) -> Tensor:
    """[m, bytes] uint8: the slots that a row goes through, and the row."""
    top_k = routes.slots.shape[1]
    head = aligned(4 * top_k)
    records = packed.new_zeros(len(routes.rows), head + packed.shape[1])
    records[:, : 4 * top_k].view(torch.int32).copy_(routes.slots)
    gather_rows(packed, routes.rows, records[:, head:])
    return records


def _compute(x: Tensor, slots: Tensor, experts: Experts, gating: Gating) -> Tensor:
    """The result [n, H] of each of the n choices that are not −1, by row, then by choice."""
    row, choice = (slots >= 0).nonzero(as_tuple=True)
    results = torch.empty(len(row), x.shape[1], dtype=x.dtype, device=x.device)
    for part in (slice(start, start + AT_ONCE) for start in range(0, len(row), AT_ONCE)):
        entries = torch.empty_like(results[part])
        gather_rows(x, row[part], entries)
        whole = torch.ones(len(entries), 1, device=x.device)
        moe(entries, experts, slots[row[part], choice[part]].unsqueeze(1), whole, gating, results[part])
    return results
