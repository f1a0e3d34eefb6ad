"""Normalisation over the last dimension. Statistics are taken in float32 whatever the tensors' type."""

import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels.dispatch import Op


@Op
def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Root-mean-square norm: out = x / sqrt(mean(x²) + eps) · weight (arXiv:1910.07467).

    Args:
        x: [T, H].
        weight: [H] of the type of `x`, or float32.
        eps: Added to the mean square.
        out: [T, H]; may be `x`.
    """
    _normalise(x, weight, eps, out)


@Op
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds `x` to the residual stream in place and normalises the sum into `out`.

    Args:
        x: [T, H], what the last block computed.
        residual: [T, H], updated.
        weight: [H] of the type of `x`, or float32.
        eps: Added to the mean square.
        out: [T, H]; may be `x`, not `residual`.
    """
    residual.add_(x)
    _normalise(residual, weight, eps, out)


@Op
def add_rms_norm_rows(x: Tensor, residual: Tensor, rows: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Normalises x + residual of some rows: what a head reads when only the last tokens' logits are wanted.

    Args:
        x: [T, H], what the last block computed.
        residual: [T, H], not updated.
        rows: [R] int64, each in [0, T).
        weight: [H] of the type of `x`, or float32.
        eps: Added to the mean square.
        out: [R, H], neither `x` nor `residual`.
    """
    _normalise(x.index_select(0, rows).add_(residual.index_select(0, rows)), weight, eps, out)


def _normalise(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    wide = x.to(torch.float32, copy=True)
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = length.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    out.copy_(wide.mul_(scale).mul_(weight))


@Op
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Layer norm: out = (x − mean(x)) / sqrt(var(x) + eps) · weight + bias (arXiv:1607.06450).

    Args:
        x: [..., H].
        weight: [H].
        bias: [H].
        eps: Added to the variance.
        out: As `x`; may be `x`.
    """
    out.copy_(functional.layer_norm(x, weight.shape, weight, bias, eps))
