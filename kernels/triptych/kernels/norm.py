"""Normalisation over the last dimension. Statistics are taken in float32 whatever the tensors' type."""

from torch import Tensor
from torch.nn import functional

from triptych.kernels.dispatch import Op


@Op
def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Root-mean-square norm: out = x / sqrt(mean(x²) + eps) · weight (arXiv:1910.07467).

    Args:
        x: [T, H].
        weight: [H].
        eps: Added to the mean square.
        out: [T, H]; may be `x`.
    """
    out.copy_(functional.rms_norm(x, weight.shape, weight, eps))


@Op
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Adds `x` to the residual stream in place and normalises the sum into `out`.

    Args:
        x: [T, H], what the last block computed.
        residual: [T, H], updated.
        weight: [H].
        eps: Added to the mean square.
        out: [T, H]; may be `x`, not `residual`.
    """
    residual.add_(x)
    out.copy_(functional.rms_norm(residual, weight.shape, weight, eps))


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
