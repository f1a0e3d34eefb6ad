"""Mixture of experts: every token goes through a few of many gated feed-forward blocks."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from triptych.kernels.activation import gelu_mul, gelu_tanh_mul, silu_mul
from triptych.kernels.dispatch import Op, require_shape
from triptych.kernels.linear import linear
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight


@dataclass(frozen=True, slots=True)
class ClampedSilu:
    """gpt-oss: min(gate, limit) · sigmoid(alpha · min(gate, limit)) · (up within ±limit + 1)."""

    alpha: float
    limit: float


Gating = Literal["silu", "gelu", "gelu_tanh"] | ClampedSilu
"""What becomes of the projections `gate` and `up`: act(gate) · up, or the clamped form."""

_GATED = {"silu": silu_mul, "gelu": gelu_mul, "gelu_tanh": gelu_tanh_mul}


@dataclass(frozen=True, slots=True, eq=False)
class ExpertProjection:
    """One projection of every expert.

    Attributes:
        weights: E of [O, I], of one form and contiguous; each may be a view of a mapped file.
        biases: E of [O], contiguous; None where there are none.
        addresses: [3, E] int64: where the values, the scales and the bias of each expert are, 0 for none.
        tensors: What they are addresses of.
    """

    weights: tuple[Weight, ...]
    biases: tuple[Tensor, ...] | None = None
    addresses: Tensor = field(init=False)
    tensors: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        if len({_form(weight) for weight in self.weights}) != 1:
            raise ValueError("the weights of all experts must have one form and shape")
        biases = self.biases or (None,) * len(self.weights)
        tensors = [(*_tensors(weight), bias) for weight, bias in zip(self.weights, biases, strict=True)]
        present = tuple(tensor for expert in tensors for tensor in expert if tensor is not None)
        if not all(tensor.is_contiguous() for tensor in present):
            raise ValueError("weights and biases of experts must be contiguous")
        addresses = [[0 if tensor is None else tensor.data_ptr() for tensor in expert] for expert in tensors]
        object.__setattr__(self, "tensors", present)
        object.__setattr__(self, "addresses", torch.tensor(addresses, dtype=torch.int64).T.contiguous())

    @property
    def experts(self) -> int:
        """E."""
        return len(self.weights)

    @property
    def outputs(self) -> int:
        """O."""
        return self.weights[0].outputs

    @property
    def inputs(self) -> int:
        """I."""
        return self.weights[0].inputs

    def bias(self, expert: int) -> Tensor | None:
        """[O] or None."""
        return None if self.biases is None else self.biases[expert]


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """The feed-forward blocks: down(act(gate(x)) · up(x)).

    Attributes:
        gate: [F, H] each.
        up: [F, H] each.
        down: [H, F] each.
    """

    gate: ExpertProjection
    up: ExpertProjection
    down: ExpertProjection


@Op
def moe(x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor) -> None:
    """The weighted sum of the experts of each token (arXiv:1701.06538), in the order of the experts, in float32.

    A token's result does not depend on what the other tokens are.

    Args:
        x: [T, H].
        experts: E of them.
        ids: [T, K] int32, each in [0, E).
        weights: [T, K] float32.
        gating: Of all experts.
        out: [T, H] of the type of `x`, not `x`.
    """
    require_shape(out, *x.shape)
    total = torch.zeros(out.shape, device=x.device)
    for expert in sorted({int(i) for i in ids.flatten().tolist()}):
        token, place = (ids == expert).nonzero(as_tuple=True)
        total.index_add_(0, token, _expert(x[token], experts, expert, gating) * weights[token, place].unsqueeze(1))
    out.copy_(total)


def _expert(x: Tensor, experts: Experts, index: int, gating: Gating) -> Tensor:
    gate, up = (_project(x, projection, index, x.dtype) for projection in (experts.gate, experts.up))
    if isinstance(gating, ClampedSilu):
        gate.clamp_(max=gating.limit)
        hidden = gate * torch.sigmoid(gate * gating.alpha) * (up.clamp_(-gating.limit, gating.limit) + 1)
    else:
        hidden = gate
        _GATED[gating].implementation("reference")(gate, up, hidden)
    return _project(hidden, experts.down, index, torch.float32)


def _project(x: Tensor, projection: ExpertProjection, expert: int, dtype: torch.dtype) -> Tensor:
    out = torch.empty(len(x), projection.outputs, dtype=dtype, device=x.device)
    linear.implementation("reference")(x, projection.weights[expert], projection.bias(expert), out)
    return out


def _tensors(weight: Weight) -> tuple[Tensor, Tensor | None]:
    match weight:
        case DenseWeight(values):
            return values, None
        case Int8Weight(values, scales):
            return values, scales
        case GgufWeight(blocks):
            return blocks, None


def _form(weight: Weight) -> tuple[object, ...]:
    shape = (type(weight), weight.outputs, weight.inputs)
    match weight:
        case DenseWeight(values):
            return (*shape, values.dtype)
        case Int8Weight():
            return shape
        case GgufWeight(kind=kind):
            return (*shape, kind)
