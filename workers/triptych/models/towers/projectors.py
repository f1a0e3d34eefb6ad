"""From the width of a tower to that of a language model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels import Op, gelu
from triptych.models.parameters import Linear
from triptych.models.spec import ProjectorSpec
from triptych.models.towers.blocks import ACTIVATIONS, Norm, Tensors, load_norm


@dataclass(frozen=True, slots=True)
class MlpProjector:
    """Two linears with an activation between them (LLaVA)."""

    up: Linear
    activation: Op[[Tensor]]
    down: Linear

    def __call__(self, features: Tensor) -> Tensor:
        """[..., tower width] to [..., H]."""
        rows = features.reshape(-1, features.shape[-1])
        inner = rows.new_empty(len(rows), self.up.weight.outputs)
        self.up(rows, inner)
        self.activation(inner, inner)
        out = rows.new_empty(len(rows), self.down.weight.outputs)
        self.down(inner, out)
        return out.view(*features.shape[:-1], -1)


def load_mlp_projector(spec: ProjectorSpec, tensors: Tensors) -> MlpProjector:
    """Reads it."""
    return MlpProjector(
        tensors.linear("projector.up"), ACTIVATIONS[spec.activation], tensors.linear("projector.down")
    )


@dataclass(frozen=True, slots=True)
class Merger:
    """Neighbouring patches become one row (Qwen).

    Attributes:
        norm: Over a patch, or over all that become one row: as wide as its weight.
        mlp: Of the patches of a row.
    """

    norm: Norm
    mlp: MlpProjector

    def __call__(self, x: Tensor) -> Tensor:
        """[patches, tower width] to [rows, H]."""
        normed = torch.empty_like(x)
        width = len(self.norm.weight)
        self.norm(x.view(-1, width), normed.view(-1, width))
        return self.mlp(normed.view(-1, self.mlp.up.weight.inputs))


def load_merger(prefix: str, eps: float, tensors: Tensors) -> Merger:
    """Reads the merger whose tensors begin with `prefix`."""
    mlp = MlpProjector(tensors.linear(f"{prefix}.up"), gelu, tensors.linear(f"{prefix}.down"))
    return Merger(load_norm(f"{prefix}.norm", eps, tensors), mlp)


@dataclass(frozen=True, slots=True)
class PixelShuffle:
    """A square of `factor` times `factor` patches, side by side, becomes one row (Idefics3)."""

    factor: int
    linear: Linear

    def __call__(self, features: Tensor) -> Tensor:
        """[N, side², tower width] to [N, rows, H]."""
        count, tokens, width = features.shape
        side = round(tokens**0.5) // self.factor
        squares = features.reshape(count, side, self.factor, side, self.factor, width).transpose(2, 3)
        rows = squares.reshape(-1, width * self.factor**2)
        out = rows.new_empty(len(rows), self.linear.weight.outputs)
        self.linear(rows, out)
        return out.view(count, side**2, -1)


@dataclass(frozen=True, slots=True)
class AveragePool:
    """Squares of patches are averaged, normalised and projected (Gemma 3).

    Attributes:
        side: Rows along each side.
        norm: Over a row.
        linear: From the tower's width.
    """

    side: int
    norm: Norm
    linear: Linear

    def __call__(self, features: Tensor) -> Tensor:
        """[N, patches, tower width] to [N, side², H]."""
        count, tokens, width = features.shape
        square = round(tokens**0.5) // self.side
        patches = features.reshape(count, self.side, square, self.side, square, width)
        rows = patches.float().mean(dim=(2, 4)).to(features.dtype).view(-1, width)
        self.norm(rows, rows)
        out = rows.new_empty(len(rows), self.linear.weight.outputs)
        self.linear(rows, out)
        return out.view(count, self.side**2, -1)
