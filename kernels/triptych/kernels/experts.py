"""Mixture of experts: every token goes through a few of many gated feed-forward blocks."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from triptych.kernels.activation import gelu_mul, gelu_tanh_mul, silu_mul
from triptych.kernels.compact import CompactWeight, ExpertWeight, plain
from triptych.kernels.dispatch import NoBackend, Op, require_shape
from triptych.kernels.expert_slots import Arrivals, SlotProjection, arrays
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

    weights: tuple[ExpertWeight, ...]
    biases: tuple[Tensor, ...] | None = None
    addresses: Tensor = field(init=False)
    tensors: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        if len({_form(weight) for weight in self.weights}) != 1:
            raise ValueError("the weights of all experts must have one form and shape")
        biases = self.biases or (None,) * len(self.weights)
        tensors = [(*arrays(weight), bias) for weight, bias in zip(self.weights, biases, strict=True)]
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

    @property
    def template(self) -> ExpertWeight:
        """One of them: form and shape of all."""
        return self.weights[0]

    @property
    def template_bias(self) -> Tensor | None:
        """Its bias."""
        return self.bias(0)

    def weight(self, expert: int) -> ExpertWeight:
        """[O, I]."""
        return self.weights[expert]

    def bias(self, expert: int) -> Tensor | None:
        """[O] or None."""
        return None if self.biases is None else self.biases[expert]


Projection = ExpertProjection | SlotProjection
"""Of experts that stay where they are, or that come and go."""


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """The feed-forward blocks: down(act(gate(x)) · up(x)).

    Attributes:
        gate: [F, H] each.
        up: [F, H] each.
        down: [H, F] each.
        arrivals: Which of them are there; None when all are.
    """

    gate: Projection
    up: Projection
    down: Projection
    arrivals: Arrivals | None = field(default=None, kw_only=True)


@Op
def moe(x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor) -> None:
    """The weighted sum of the experts of each token (arXiv:1701.06538), in the order of the experts, in float32.

    A token's result does not depend on what the other tokens are. Only compiled kernels wait for experts that arrive.

    Args:
        x: [T, H].
        experts: E of them.
        ids: [T, K] int32, each in [0, E).
        weights: [T, K] float32.
        gating: Of all experts.
        out: [T, H] of the type of `x`, not `x`.

    Raises:
        NoBackend: experts are to be waited for, and no compiled kernel takes these arguments.
    """
    require_shape(out, *x.shape)
    total = torch.zeros(out.shape, device=x.device)
    for expert in sorted({int(i) for i in ids.flatten().tolist()}):
        token, place = (ids == expert).nonzero(as_tuple=True)
        rows = down_rows(gated_rows(x[token], experts, expert, gating), experts, expert)
        total.index_add_(0, token, rows * weights[token, place].unsqueeze(1))
    out.copy_(total)


def gated_rows(x: Tensor, experts: Experts, expert: int, gating: Gating) -> Tensor:
    """The gated unit of one expert by the reference, [T, F], of rows [T, H].

    Raises:
        NoBackend: experts are to be waited for: in the expert's slot may still be another one.
    """
    if experts.arrivals is not None:
        raise NoBackend("moe has no compiled kernel for these arguments, and its reference waits for no experts")
    gate, up = (_project(x, projection, expert, x.dtype) for projection in (experts.gate, experts.up))
    if isinstance(gating, ClampedSilu):
        gate.clamp_(max=gating.limit)
        return gate * torch.sigmoid(gate * gating.alpha) * (up.clamp_(-gating.limit, gating.limit) + 1)
    _GATED[gating].implementation("reference")(gate, up, gate)
    return gate


def down_rows(hidden: Tensor, experts: Experts, expert: int) -> Tensor:
    """What one expert makes of its gated unit [T, F] by the reference: [T, H] float32."""
    return _project(hidden, experts.down, expert, torch.float32)


def _project(x: Tensor, projection: Projection, expert: int, dtype: torch.dtype) -> Tensor:
    out = torch.empty(len(x), projection.outputs, dtype=dtype, device=x.device)
    linear.implementation("reference")(x, _aligned(projection.weight(expert)), projection.bias(expert), out)
    return out


def _aligned(weight: ExpertWeight) -> Weight:
    """With values at a multiple of 64 bytes: torch's sums depend on it, and an expert is not always in one place."""
    weight = plain(weight)
    if isinstance(weight, DenseWeight) and weight.values.data_ptr() % 64:
        return DenseWeight(weight.values.clone())
    return weight


def _form(weight: ExpertWeight) -> tuple[object, ...]:
    shape = (type(weight), weight.outputs, weight.inputs)
    match weight:
        case DenseWeight(values):
            return (*shape, values.dtype)
        case Int8Weight() | CompactWeight():
            return shape
        case GgufWeight(kind=kind):
            return (*shape, kind)
