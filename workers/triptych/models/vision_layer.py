"""One layer of a CLIP vision tower."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels import attention, gelu, layer_norm, quick_gelu
from triptych.kernels.dispatch import Op
from triptych.models.parameters import Linear, Parameters
from triptych.models.spec import Activation, VisionSpec

ACTIVATIONS: dict[Activation, Op[[Tensor]]] = {"gelu": gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm over the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Normalises `x` into `out`, which may be `x`."""
        layer_norm(x, self.weight, self.bias, self.eps, out)


@dataclass(frozen=True, slots=True)
class VisionLayer:
    """A pre-norm transformer layer with bidirectional attention and an ungated feed-forward block."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    mlp_norm: Norm
    expand: Linear
    activation: Op[[Tensor]]
    contract: Linear
    num_heads: int

    def __call__(self, x: Tensor) -> None:
        """Adds attention and feed-forward to x [N, tokens, H] in place."""
        self._attend(x)
        self._feed_forward(x)

    def _attend(self, x: Tensor) -> None:
        normed = torch.empty_like(x)
        self.attention_norm(x, normed)
        q, k, v, attended = (torch.empty_like(x) for _ in range(4))
        for project, rows in ((self.query, q), (self.key, k), (self.value, v)):
            project(normed.flatten(0, 1), rows.view(-1, x.shape[-1]))
        by_head = (*x.shape[:2], self.num_heads, x.shape[-1] // self.num_heads)
        scale = by_head[-1] ** -0.5
        attention(q.view(by_head), k.view(by_head), v.view(by_head), scale, attended.view(by_head))
        self.output(attended.flatten(0, 1), normed.view(-1, x.shape[-1]))
        x.add_(normed)

    def _feed_forward(self, x: Tensor) -> None:
        normed = torch.empty_like(x)
        self.mlp_norm(x, normed)
        rows = normed.flatten(0, 1)
        inner = x.new_empty(len(rows), self.expand.weight.outputs)
        self.expand(rows, inner)
        self.activation(inner, inner)
        self.contract(inner, rows)
        x.add_(normed)


def load_vision_layer(prefix: str, spec: VisionSpec, parameters: Parameters) -> VisionLayer:
    """Reads the parameters of the layer called `prefix`."""
    return VisionLayer(
        attention_norm=load_norm(f"{prefix}.attention_norm", spec, parameters),
        query=parameters.linear(f"{prefix}.attention.query"),
        key=parameters.linear(f"{prefix}.attention.key"),
        value=parameters.linear(f"{prefix}.attention.value"),
        output=parameters.linear(f"{prefix}.attention.output"),
        mlp_norm=load_norm(f"{prefix}.mlp_norm", spec, parameters),
        expand=parameters.linear(f"{prefix}.mlp.up"),
        activation=ACTIVATIONS[spec.activation],
        contract=parameters.linear(f"{prefix}.mlp.down"),
        num_heads=spec.num_heads,
    )


def load_norm(prefix: str, spec: VisionSpec, parameters: Parameters) -> Norm:
    """Reads the weight and bias of the norm called `prefix`."""
    return Norm(parameters.tensor(f"{prefix}.weight"), parameters.tensor(f"{prefix}.bias"), spec.norm_eps)
