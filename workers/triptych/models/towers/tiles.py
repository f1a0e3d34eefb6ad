"""Towers that read square tiles of one size: CLIP and SigLIP."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.kernels import DenseWeight, linear
from triptych.models.spec import ClipTower, SiglipTower
from triptych.models.towers.blocks import Block, Norm, Tensors, load_blocks, load_norm


@dataclass(frozen=True, slots=True)
class TileTower:
    """Patches of tiles, with a class token before them (CLIP) or not (SigLIP), through transformer layers.

    Attributes:
        spec: What it is.
        patches: A convolution whose stride is its kernel: a linear over flattened patches.
        patch_bias: [H] or None.
        class_token: [H] or None.
        positions: [tokens, H], learnt.
        norm: Before the layers.
        blocks: The layers.
        output_norm: Behind them.
    """

    spec: ClipTower | SiglipTower
    patches: DenseWeight
    patch_bias: Tensor | None
    class_token: Tensor | None
    positions: Tensor
    norm: Norm | None
    blocks: tuple[Block, ...]
    output_norm: Norm | None

    def __call__(self, tiles: Tensor) -> Tensor:
        """Features of the patches, [N, tokens, H], of tiles [N, C, S, S].

        Raises:
            InvalidArgument: tiles of another shape.
        """
        size, channels = self.spec.image_size, self.spec.num_channels
        if tiles.shape[1:] != (channels, size, size):
            raise InvalidArgument(
                f"pixels must have shape [N, {channels}, {size}, {size}], got {list(tiles.shape)}", field="image"
            )
        x = self._embed(tiles)
        tokens = x.shape[1]
        rows = x.flatten(0, 1)
        if self.norm is not None:
            self.norm(rows, rows)
        for block in self.blocks:
            block(rows, (tokens,) * len(tiles))
        if self.output_norm is not None:
            self.output_norm(rows, rows)
        keeps_all = self.class_token is None or (isinstance(self.spec, ClipTower) and self.spec.keep_class_token)
        return x if keeps_all else x[:, 1:]

    def _embed(self, tiles: Tensor) -> Tensor:
        patch = self.spec.patch_size
        grid = tiles.unfold(2, patch, patch).unfold(3, patch, patch)
        flat = grid.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.patches.inputs)
        embedded = flat.new_empty(len(flat), self.patches.outputs)
        linear(flat, self.patches, self.patch_bias, embedded)
        x = embedded.view(len(tiles), -1, self.patches.outputs)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(tiles), 1, -1), x], dim=1)
        return x.add_(self.positions)


def load_tile_tower(spec: ClipTower | SiglipTower, tensors: Tensors) -> TileTower:
    """Reads the tower."""
    is_clip = isinstance(spec, ClipTower)
    return TileTower(
        spec=spec,
        patches=DenseWeight(tensors.tensor("vision.patches.weight").flatten(1)),
        patch_bias=None if is_clip else tensors.tensor("vision.patches.bias"),
        class_token=tensors.tensor("vision.class_token.weight") if is_clip else None,
        positions=tensors.tensor("vision.positions.weight"),
        norm=load_norm("vision.norm", spec.blocks.norm_eps, tensors) if is_clip else None,
        blocks=load_blocks(spec.blocks, tensors),
        output_norm=None if is_clip else load_norm("vision.output_norm", spec.blocks.norm_eps, tensors),
    )
