"""Where the likeliest tokens end, as many as amount to a limit; found by sums over all ranks.

The logits are 32 bits, and their order is that of the bits: four rounds find the last logit that is needed, eight
bits a round, from the sums over each of the 256 values that those bits can have. A round sends 2 KiB a row, whatever
the vocabulary and the logits.
"""

import torch
from torch import Tensor

from triptych.engine.divided.share import VocabularyShare

_BITS = 8
_LAST = (1 << _BITS) - 1


def likeliest(numbers: Tensor, amounts: Tensor, limit: Tensor, share: VocabularyShare) -> Tensor:
    """Keeps the tokens before which, in the order of falling logits and then of ids, there is less than a limit.

    Args:
        numbers: [R, V_local] int64, `ordered` logits.
        amounts: [R, V_local] float64 of each token, equal for equal logits; tokens of 0 are not kept.
        limit: [R] float64, above 0; more than there is keeps everything.
        share: Whose tokens these are.

    Returns:
        [R, V_local] bool.
    """
    prefix = numbers.new_zeros(len(numbers), 1)
    before = amounts.new_zeros(len(numbers), 1)
    for shift in range(32 - _BITS, -1, -_BITS):
        within = (numbers >> (shift + _BITS)) == prefix
        falling = _LAST - ((numbers >> shift) & _LAST)
        sums = amounts.new_zeros(len(numbers), _LAST + 1).scatter_add_(1, falling, amounts * within)
        upto = before + share.summed(sums).cumsum(dim=1)
        chosen = (upto >= limit[:, None].minimum(upto[:, -1:])).int().argmax(dim=1, keepdim=True)
        before = torch.where(chosen > 0, upto.gather(1, (chosen - 1).clamp_(min=0)), before)
        prefix = (prefix << _BITS) + (_LAST - chosen)
    equal = (numbers == prefix) & (amounts > 0)
    return (amounts > 0) & (numbers > prefix) | _first_equal(equal, amounts, limit - before[:, 0], share)


def _first_equal(equal: Tensor, amounts: Tensor, missing: Tensor, share: VocabularyShare) -> Tensor:
    """Of the tokens that have the last logit, those that are needed, in the order of their ids."""
    there = share.gathered(torch.stack((equal.sum(dim=1).double(), (amounts * equal).amax(dim=1))))
    amount = there[:, 1].amax(dim=0)
    needed = (missing / amount).ceil_().clamp_(min=1.0)
    earlier = there[: share.group.rank, 0].sum(dim=0)
    return equal & (equal.cumsum(dim=1) <= (needed - earlier)[:, None])
