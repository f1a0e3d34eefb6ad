"""Activations of feed-forward blocks, elementwise."""

import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels.dispatch import Op, require_shape


@Op
def silu_mul(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """Gated linear unit: out = silu(gate) · up, with silu(x) = x · sigmoid(x) (arXiv:2002.05202).

    Args:
        gate: [T, F].
        up: [T, F].
        out: [T, F]; may be `gate`, not `up`.
    """
    require_shape(out, *gate.shape)
    torch.ops.aten.silu.out(gate, out=out)
    out.mul_(up)


@Op
def gelu_mul(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """Gated linear unit with the exact Gaussian error linear unit: out = gelu(gate) · up (arXiv:2002.05202).

    Args:
        gate: [T, F].
        up: [T, F].
        out: [T, F]; may be `gate`, not `up`.
    """
    require_shape(out, *gate.shape)
    torch.mul(functional.gelu(gate), up, out=out)


@Op
def gelu_tanh_mul(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """The same with the tanh approximation of gelu.

    Args:
        gate: [T, F].
        up: [T, F].
        out: [T, F]; may be `gate`, not `up`.
    """
    require_shape(out, *gate.shape)
    torch.mul(functional.gelu(gate, approximate="tanh"), up, out=out)


@Op
def gelu(x: Tensor, out: Tensor) -> None:
    """Gaussian error linear unit, exact: out = x · Φ(x) (arXiv:1606.08415).

    Args:
        x: Any shape.
        out: As `x`; may be `x`.
    """
    out.copy_(functional.gelu(x))


@Op
def gelu_tanh(x: Tensor, out: Tensor) -> None:
    """The tanh approximation of GELU that SigLIP was trained with.

    Args:
        x: Any shape.
        out: As `x`; may be `x`.
    """
    out.copy_(functional.gelu(x, approximate="tanh"))


@Op
def quick_gelu(x: Tensor, out: Tensor) -> None:
    """The sigmoid approximation of GELU that CLIP was trained with: out = x · sigmoid(1.702 x).

    Args:
        x: Any shape.
        out: As `x`; may be `x`.
    """
    torch.mul(x, torch.sigmoid(1.702 * x), out=out)
