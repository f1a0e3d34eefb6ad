"""Norms over whole projections whose heads are divided among ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.norms import RmsNorm
from triptych.models.workspace import Activations
from triptych.parallel import Group


@dataclass(frozen=True, slots=True)
class DividedQkNorms:
    """Root-mean-square norms of queries and keys over all ranks' heads: the ranks add their sums of squares up.

    Attributes:
        query: With the weights of this rank's heads.
        key: As well.
        query_width: Of the whole projection.
        key_width: As well, every head counted once.
        counts_keys: Whether this rank's keys are no copies of those of another.
        group: The ranks.
    """

    query: RmsNorm
    key: RmsNorm
    query_width: int
    key_width: int
    counts_keys: bool
    group: Group

    def __call__(self, acts: Activations) -> None:
        """Normalises `acts.q` and `acts.k` in place; statistics are taken in float32."""
        q, k = acts.q.float(), acts.k.float()
        squares = torch.zeros(len(q), 2, device=q.device)
        squares[:, 0] = q.square().sum(dim=1)
        if self.counts_keys:
            squares[:, 1] = k.square().sum(dim=1)
        self.group.all_reduce(squares)
        acts.q.copy_(_normalised(q, squares[:, :1] / self.query_width, self.query))
        acts.k.copy_(_normalised(k, squares[:, 1:] / self.key_width, self.key))


def _normalised(x: Tensor, mean_square: Tensor, norm: RmsNorm) -> Tensor:
    return x * (mean_square + norm.eps).rsqrt() * norm.weight
