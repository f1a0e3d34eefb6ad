"""Which tensors the kernels take."""

import torch
from torch import Tensor

_ELEMENTS = (torch.float32, torch.bfloat16)


def plain(first: Tensor, *others: Tensor) -> bool:
    """Whether all are contiguous and of one element type, float32 or bfloat16."""
    return (
        first.dtype in _ELEMENTS
        and first.is_contiguous()
        and all(tensor.dtype is first.dtype and tensor.is_contiguous() for tensor in others)
    )
