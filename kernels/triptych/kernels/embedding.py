"""Token embedding."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op, require_shape
from triptych.kernels.weights import DenseWeight, Weight, dequantize


@Op
def embedding(token_ids: Tensor, weight: Weight, out: Tensor) -> None:
    """Looks rows up: out[t] = weight[token_ids[t]].

    Args:
        token_ids: [T] int64, each in [0, V).
        weight: [V, H].
        out: [T, H].
    """
    require_shape(out, *token_ids.shape, weight.inputs)
    if isinstance(weight, DenseWeight) and weight.values.dtype == out.dtype:
        torch.index_select(weight.values, 0, token_ids, out=out)
    else:
        out.copy_(dequantize(weight, token_ids))
