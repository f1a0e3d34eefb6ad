"""The tokens of one rank, and what it tells the others of its lane."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.parallel import Group


@dataclass(frozen=True, slots=True)
class VocabularyShare:
    """An interval of the vocabulary; those of the ranks follow one another in the order of the ranks.

    Attributes:
        group: The ranks that divide the vocabulary.
        start: First token of this rank.
        size: Tokens of the whole vocabulary.
    """

    group: Group
    start: int
    size: int

    def gathered(self, x: Tensor) -> Tensor:
        """[ranks, ...]: what every rank has; shapes are equal."""
        out = x.new_empty(self.group.size, *x.shape)
        self.group.all_gather(x.contiguous(), out)
        return out

    def summed(self, x: Tensor) -> Tensor:
        """The sum of what the ranks have, the same bits on each; x is overwritten."""
        self.group.all_reduce(x)
        return x

    def of_owner(self, values: Tensor, token_ids: Tensor, logits: Tensor) -> Tensor:
        """For each row, what the rank that has its token says.

        Args:
            values: [R], this rank's.
            token_ids: [R] int64.
            logits: [R, V_local]; for how many tokens there are here.
        """
        here = (self.start <= token_ids) & (token_ids < self.start + logits.shape[1])
        return self.summed(torch.where(here, values, 0))
