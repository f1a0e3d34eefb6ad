"""Dense projection."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op


@Op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Projects rows: out = x · weightᵀ + bias.

    The weight stays [O, I] as checkpoints store it, so that it can be a view of a file mapped by several processes.

    Args:
        x: [T, I].
        weight: [O, I].
        bias: [O] or None.
        out: [T, O], not `x`.
    """
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
