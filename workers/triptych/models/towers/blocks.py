"""The transformer layers that vision towers share, and their parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from triptych.kernels import (
    Op,
    gelu,
    gelu_tanh,
    layer_norm,
    linears,
    quick_gelu,
    rms_norm,
    segment_attention,
    silu_mul,
)
from triptych.kernels.rope import rope
from triptych.models.parameters import Linear
from triptych.models.spec import Activation, BlocksSpec

ACTIVATIONS: dict[Activation, Op[[Tensor]]] = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


class Tensors(Protocol):
    """The parameters of a tower, by our names."""

    def tensor(self, name: str) -> Tensor:
        """One tensor."""

    def linear(self, name: str) -> Linear:
        """`name`.weight and, if there is one, `name`.bias."""

    def has(self, name: str) -> bool:
        """Whether the model has that tensor."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Over the last dimension: layer norm, or root-mean-square norm where there is no bias."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Normalises x [T, H] into `out`, which may be `x`."""
        if self.bias is None:
            rms_norm(x, self.weight, self.eps, out)
        else:
            layer_norm(x, self.weight, self.bias, self.eps, out)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of every row, [T, D/2] each (arXiv:2104.09864)."""

    cos: Tensor
    sin: Tensor

    def __call__(self, q: Tensor, k: Tensor) -> None:
        """Turns q and k [T, heads, D] in place."""
        rope(q, k, torch.arange(len(q), device=q.device), self.cos, self.sin)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(up(x))), or down(silu(gate(x)) · up(x)) where there is a gate."""

    gate: Linear | None
    up: Linear
    down: Linear
    activation: Op[[Tensor]]

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """From x [T, H] to `out`, which may be `x`."""
        inner = x.new_empty(len(x), self.up.weight.outputs)
        if self.gate is None:
            self.up(x, inner)
            self.activation(inner, inner)
        else:
            gate = torch.empty_like(inner)
            linears(x, (self.gate.to(gate), self.up.to(inner)))
            silu_mul(gate, inner, gate)
            inner = gate
        self.down(inner, out)


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of many heads, without a direction."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    num_heads: int

    def __call__(self, x: Tensor, segments: Sequence[int], out: Tensor, rotation: Rotation | None = None) -> None:
        """Attends from x [T, H] into `out`, which may be `x`.

        Args:
            x: Rows.
            segments: Lengths of the runs of rows that see each other; their sum is T.
            out: [T, H].
            rotation: Of queries and keys.
        """
        q, k, v, attended = (torch.empty_like(x) for _ in range(4))
        linears(x, (self.query.to(q), self.key.to(k), self.value.to(v)))
        by_head = (len(x), self.num_heads, x.shape[1] // self.num_heads)
        q, k, v = (rows.view(by_head) for rows in (q, k, v))
        if rotation is not None:
            rotation(q, k)
        segment_attention(q, k, v, segments, by_head[2] ** -0.5, attended.view(by_head))
        self.output(attended, out)


@dataclass(frozen=True, slots=True)
class Block:
    """A pre-norm transformer layer."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: FeedForward

    def __call__(self, x: Tensor, segments: Sequence[int], rotation: Rotation | None = None) -> None:
        """Adds attention and feed-forward to x [T, H] in place; the arguments are those of `Attention`."""
        normed = torch.empty_like(x)
        self.attention_norm(x, normed)
        self.attention(normed, segments, normed, rotation)
        x.add_(normed)
        self.mlp_norm(x, normed)
        self.mlp(normed, normed)
        x.add_(normed)


def load_block(prefix: str, spec: BlocksSpec, tensors: Tensors) -> Block:
    """Reads the layer whose tensors begin with `prefix`."""
    return Block(
        attention_norm=load_norm(f"{prefix}.attention_norm", spec.norm_eps, tensors),
        attention=load_attention(f"{prefix}.attention", spec.num_heads, tensors),
        mlp_norm=load_norm(f"{prefix}.mlp_norm", spec.norm_eps, tensors),
        mlp=load_feed_forward(f"{prefix}.mlp", spec.activation, tensors),
    )


def load_attention(prefix: str, num_heads: int, tensors: Tensors) -> Attention:
    """Reads attention."""
    query, key, value, output = (tensors.linear(f"{prefix}.{name}") for name in ("query", "key", "value", "output"))
    return Attention(query, key, value, output, num_heads)


def load_feed_forward(prefix: str, activation: Activation, tensors: Tensors) -> FeedForward:
    """Reads a feed-forward block, which has a gate if there are tensors for it."""
    return FeedForward(
        gate=tensors.linear(f"{prefix}.gate") if tensors.has(f"{prefix}.gate.weight") else None,
        up=tensors.linear(f"{prefix}.up"),
        down=tensors.linear(f"{prefix}.down"),
        activation=ACTIVATIONS[activation],
    )


def load_blocks(spec: BlocksSpec, tensors: Tensors) -> tuple[Block, ...]:
    """Reads all layers."""
    return tuple(load_block(f"vision.layers.{index}", spec, tensors) for index in range(spec.num_layers))


def load_norm(name: str, eps: float, tensors: Tensors) -> Norm:
    """Reads a norm."""
    bias = tensors.tensor(f"{name}.bias") if tensors.has(f"{name}.bias") else None
    return Norm(tensors.tensor(f"{name}.weight"), bias, eps)
