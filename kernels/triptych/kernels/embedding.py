"""Token embedding."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op


@Op
def embedding(token_ids: Tensor, weight: Tensor, out: Tensor) -> None:
    """Looks rows up: out[t] = weight[token_ids[t]].

    Args:
        token_ids: [T] int64, each in [0, V).
        weight: [V, H].
        out: [T, H] of the weight's type.
    """
    torch.index_select(weight, 0, token_ids, out=out)
