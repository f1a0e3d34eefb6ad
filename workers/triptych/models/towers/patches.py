"""What Qwen's towers have in common: patches of a grid, turned by row and by column."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.kernels import DenseWeight, linear
from triptych.models.spec import PatchGrid
from triptych.models.towers.blocks import Rotation, Tensors

GridSize = tuple[int, int, int]
"""Patches in time, height and width."""


@dataclass(frozen=True, slots=True)
class PatchEmbedding:
    """A convolution whose stride is its kernel: a linear over flattened patches."""

    grid: PatchGrid
    weight: DenseWeight
    bias: Tensor | None

    def __call__(self, pixels: Tensor) -> Tensor:
        """[patches, numbers of a patch] to [patches, tower width]; InvalidArgument for patches of another size."""
        if pixels.shape[1:] != (self.grid.width,):
            raise InvalidArgument(
                f"pixels must have shape [patches, {self.grid.width}], got {list(pixels.shape)}", field="image"
            )
        out = pixels.new_empty(len(pixels), self.weight.outputs)
        linear(pixels, self.weight, self.bias, out)
        return out


def load_patch_embedding(grid: PatchGrid, tensors: Tensors) -> PatchEmbedding:
    """Reads it."""
    bias = tensors.tensor("vision.patches.bias") if tensors.has("vision.patches.bias") else None
    return PatchEmbedding(grid, DenseWeight(tensors.tensor("vision.patches.weight").flatten(1)), bias)


def frame_segments(grids: Sequence[GridSize]) -> tuple[int, ...]:
    """Lengths of the runs of patches that are one frame."""
    return tuple(height * width for time, height, width in grids for _ in range(time))


def by_squares(values: Tensor, merge: int) -> Tensor:
    """[height, width, …] to [height · width, …], the patches that become one row side by side."""
    height, width = values.shape[:2]
    split = values.reshape(height // merge, merge, width // merge, merge, *values.shape[2:])
    return split.transpose(1, 2).reshape(height * width, *values.shape[2:])


def rotation(grids: Sequence[GridSize], merge: int, head_dim: int, theta: float, device: torch.device) -> Rotation:
    """Turns the first half of a head's pairs by the patch's row and the second by its column, in float32."""
    dims = torch.arange(0, head_dim // 2, 2, dtype=torch.float32)
    frequencies = 1.0 / theta ** (dims / (head_dim // 2))
    angles = [_angles(height, width, merge, frequencies).repeat(time, 1) for time, height, width in grids]
    turned = torch.cat(angles).to(device)
    return Rotation(turned.cos(), turned.sin())


def _angles(height: int, width: int, merge: int, frequencies: Tensor) -> Tensor:
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)
    return by_squares(places[..., None] * frequencies, merge).flatten(1)
