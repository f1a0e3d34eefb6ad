"""The tower of Qwen3-VL (arXiv:2511.21631)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.spec import Qwen3Vision
from triptych.models.towers.blocks import Block, Tensors, load_blocks
from triptych.models.towers.patches import (
    GridSize,
    PatchEmbedding,
    by_squares,
    frame_segments,
    load_patch_embedding,
    rotation,
)
from triptych.models.towers.projectors import Merger, load_merger


@dataclass(frozen=True, slots=True)
class Qwen3Tower:
    """Every layer sees a whole frame; rows are taken behind several layers (DeepStack, arXiv:2406.04334).

    Attributes:
        spec: What it is.
        embedding: Of patches.
        positions: [side · side, tower width], learnt.
        blocks: The layers.
        merger: Behind the last one.
        levels: Behind those in `spec.level_layers`.
    """

    spec: Qwen3Vision
    embedding: PatchEmbedding
    positions: Tensor
    blocks: tuple[Block, ...]
    merger: Merger
    levels: tuple[Merger, ...]

    def __call__(self, pixels: Tensor, grids: Sequence[GridSize]) -> Tensor:
        """Patches of pictures, one after the other, to rows [1 + levels, rows, H]."""
        spec = self.spec
        frames = frame_segments(grids)
        turn = rotation(grids, spec.grid.merge, spec.blocks.head_dim, spec.rope_theta, pixels.device)
        x = self.embedding(pixels)
        x.add_(torch.cat([self._places(grid) for grid in grids]).to(x.dtype))
        levels: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            block(x, frames, turn)
            if index in spec.level_layers:
                level = spec.level_layers.index(index)
                levels[level] = self.levels[level](x)
        return torch.stack([self.merger(x), *(levels[level] for level in sorted(levels))])

    def _places(self, grid: GridSize) -> Tensor:
        """Mixes of the learnt positions that are next to those of the grid: [patches, tower width] float32."""
        time, height, width = grid
        side, device = self.spec.side, self.positions.device
        top, bottom, down = (part.to(device) for part in _between(height, side))
        left, right, along = (part.to(device) for part in _between(width, side))
        table = self.positions.view(side, side, -1).float()
        down, along = down[:, None, None], along[None, :, None]
        upper = table[top][:, left] * (1 - along) + table[top][:, right] * along
        lower = table[bottom][:, left] * (1 - along) + table[bottom][:, right] * along
        return by_squares(upper * (1 - down) + lower * down, self.spec.grid.merge).repeat(time, 1)


def _between(count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """`count` places spread evenly from the first to the last of `side`: those before and behind, and how far."""
    exact = torch.arange(count, dtype=torch.float32) * (side - 1) / max(count - 1, 1)
    before = exact.floor().long()
    return before, (before + 1).clamp(max=side - 1), exact - before


def load_qwen3(spec: Qwen3Vision, tensors: Tensors) -> Qwen3Tower:
    """Reads it."""
    eps = spec.blocks.norm_eps
    return Qwen3Tower(
        spec=spec,
        embedding=load_patch_embedding(spec.grid, tensors),
        positions=tensors.tensor("vision.positions.weight"),
        blocks=load_blocks(spec.blocks, tensors),
        merger=load_merger("projector", eps, tensors),
        levels=tuple(load_merger(f"projector.levels.{i}", eps, tensors) for i in range(len(spec.level_layers))),
    )
