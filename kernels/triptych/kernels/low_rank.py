"""Low-rank adapters of projections (LoRA, arXiv:2106.09685): rows of one batch may have different ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPair:
    """What one adapter adds to a projection: scale · (x · downᵀ) · up.

    Attributes:
        down: [r, I].
        up: [r, O], of the type of `down`.
        scale: Factor of the product.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What each of A adapters adds to one projection.

    Attributes:
        pairs: By the adapter's number, of one type and contiguous; None where it leaves the projection as it is.
        inputs: I.
        outputs: O.
        table: [4, A] int64: addresses of down and up (0 for none), rank, bits of the float64 scale.
    """

    pairs: tuple[LowRankPair | None, ...]
    inputs: int
    outputs: int
    table: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for pair in self.present:
            rank = len(pair.down)
            if pair.down.shape != (rank, self.inputs) or pair.up.shape != (rank, self.outputs):
                raise ValueError(f"pairs must be [r, {self.inputs}] and [r, {self.outputs}]")
            if pair.down.dtype is not self.dtype or pair.up.dtype is not self.dtype:
                raise ValueError("all pairs must be of one type")
            if not (pair.down.is_contiguous() and pair.up.is_contiguous()):
                raise ValueError("pairs must be contiguous")
        columns = [(0, 0, 0, 0.0) if pair is None else _column(pair) for pair in self.pairs]
        numbers = torch.tensor([column[:3] for column in columns], dtype=torch.int64)
        scales = torch.tensor([[column[3]] for column in columns], dtype=torch.float64).view(torch.int64)
        object.__setattr__(self, "table", torch.cat([numbers, scales], dim=1).T.contiguous())

    @property
    def present(self) -> tuple[LowRankPair, ...]:
        """Those that there are; at least one."""
        return tuple(pair for pair in self.pairs if pair is not None)

    @property
    def dtype(self) -> torch.dtype:
        """Of all pairs."""
        return self.present[0].down.dtype


Adapted = tuple[LowRank, Tensor]
"""The adapters of a projection, and its output [T, O]."""


@Op
def low_rank(x: Tensor, rows: Tensor, projections: Sequence[Adapted]) -> None:
    """Adds to projections of the same rows what each row's adapter says: out += scale · (x · downᵀ) · up.

    Sums are in float32; a row's result does not depend on the other rows.

    Args:
        x: [T, I].
        rows: [T] int32, the number of each row's adapter; -1 for none.
        projections: Outputs of the type of `x`, apart from each other and from `x`.
    """
    for adapter in {int(number) for number in rows.tolist()} - {-1}:
        chosen = (rows == adapter).nonzero(as_tuple=True)[0]
        for adapters, out in projections:
            if (pair := adapters.pairs[adapter]) is not None:
                added = x[chosen].float() @ pair.down.float().T @ pair.up.float() * pair.scale
                out[chosen] = (out[chosen] + added).to(out.dtype)


def _column(pair: LowRankPair) -> tuple[int, int, int, float]:
    return pair.down.data_ptr(), pair.up.data_ptr(), len(pair.down), pair.scale
