"""Factors and caps of whole tensors, elementwise."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op, require_shape


@Op
def scale(x: Tensor, factor: float, out: Tensor) -> None:
    """Multiplies: out = factor · x.

    Args:
        x: Any shape.
        factor: A finite number.
        out: As `x`; may be `x`.
    """
    require_shape(out, *x.shape)
    torch.mul(x, factor, out=out)


@Op
def softcap(x: Tensor, cap: float, out: Tensor) -> None:
    """Keeps values between −cap and cap: out = cap · tanh(x / cap) (Gemma 2, arXiv:2408.00118).

    Args:
        x: Any shape.
        cap: Above zero.
        out: As `x`; may be `x`.
    """
    require_shape(out, *x.shape)
    torch.mul(torch.tanh(x / cap), cap, out=out)


@Op
def add_to(x: Tensor, residual: Tensor, out: Tensor) -> None:
    """Adds `x` to the residual stream in place, and copies the sum: what a block without a norm before it reads.

    Args:
        x: [T, H].
        residual: [T, H], updated.
        out: [T, H]; may be `x`, not `residual`.
    """
    residual.add_(x)
    out.copy_(residual)


@Op
def add_gated(x: Tensor, logits: Tensor | None, out: Tensor) -> None:
    """Adds as much of every row as a gate lets through: out = out + sigmoid(logits) · x.

    Args:
        x: [T, H].
        logits: [T, 1] float32; None for all.
        out: [T, H], updated.
    """
    require_shape(out, *x.shape)
    out.add_(x if logits is None else (x * logits.sigmoid()).to(x.dtype))
