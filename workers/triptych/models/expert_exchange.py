"""The way of rows to experts on other ranks and back: counts first, then rows, then results.

Of what could travel this is the least that leaves no sum to the ranks that experts happen to be on. With K choices
among p ranks a row reaches (p − 1)(1 − (1 − 1/p)^K) others on average and never more than min(K, p − 1): sending it
once per choice, or to everybody, would be more. Sums of the results per rank would be fewer bytes on the way back;
but then a move of an expert would change the order of additions, and could change a token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from triptych.kernels import Experts, Gating, gather_rows, moe
from triptych.kernels.expert_slots import Waves
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
    chosen, waves = slots[row, choice], _waves(experts)
    order = None if waves is None else chosen.argsort(stable=True)
    if order is not None:
        row, chosen = row[order], chosen[order]
    results = torch.empty(len(row), x.shape[1], dtype=x.dtype, device=x.device)
    there = experts if waves is None else _without_waves(experts)
    for part in _parts(chosen, waves):
        entries = torch.empty_like(results[part])
        gather_rows(x, row[part], entries)
        whole = torch.ones(len(entries), 1, device=x.device)
        moe(entries, there, chosen[part].unsqueeze(1), whole, gating, results[part])
    return results if order is None else results[order.argsort()]


def _parts(chosen: Tensor, waves: Waves | None) -> Iterator[slice]:
    """Of choices [n] those that are computed together; where experts take turns they are in ascending order.

    All parts of a wave are computed while it is there: in another pass every expert would be read again.
    """
    start = 0
    for stop in [len(chosen)] if waves is None else _ends(chosen, waves):
        for first in range(start, stop, AT_ONCE):
            yield slice(first, min(first + AT_ONCE, stop))
        start = stop


def _ends(chosen: Tensor, waves: Waves) -> Iterator[int]:
    """Enters wave after wave: how many of the ascending choices [n] are of its experts, or of earlier ones."""
    for wave in range(waves.count):
        waves.enter(wave)
        yield int(torch.searchsorted(chosen, waves.after))


def _waves(experts: Experts) -> Waves | None:
    """None where all experts that are asked for have slots at once."""
    waves = None if experts.arrivals is None else experts.arrivals.waves
    return None if waves is None or waves.count == 1 else waves


def _without_waves(experts: Experts) -> Experts:
    """Those that are there, or come."""
    assert experts.arrivals is not None
    return replace(experts, arrivals=replace(experts.arrivals, waves=None))
