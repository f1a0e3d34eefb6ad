"""The tower of Qwen2.5-VL (arXiv:2502.13923)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from triptych.models.spec import Qwen25Vision
from triptych.models.towers.blocks import Block, Rotation, Tensors, load_blocks
from triptych.models.towers.patches import GridSize, PatchEmbedding, frame_segments, load_patch_embedding, rotation
from triptych.models.towers.projectors import Merger, load_merger
from triptych.models.towers.windows import windows


@dataclass(frozen=True, slots=True)
class Qwen25Tower:
    """Most layers see a window, some see a whole frame; what a frame shows is told by the language model alone."""

    spec: Qwen25Vision
    embedding: PatchEmbedding
    blocks: tuple[Block, ...]
    merger: Merger

    def __call__(self, pixels: Tensor, grids: Sequence[GridSize]) -> Tensor:
        """Patches of pictures, one after the other, to rows [1, rows, H]."""
        spec = self.spec
        cut = windows(grids, spec.grid.merge, spec.window)
        frames = frame_segments(grids)
        turn = rotation(grids, spec.grid.merge, spec.blocks.head_dim, spec.rope_theta, pixels.device)
        turn = Rotation(cut.apply(turn.cos), cut.apply(turn.sin))
        x = cut.apply(self.embedding(pixels))
        for index, block in enumerate(self.blocks):
            block(x, frames if index in spec.full_layers else cut.segments, turn)
        return cut.undo(self.merger(x))[None]


def load_qwen25(spec: Qwen25Vision, tensors: Tensors) -> Qwen25Tower:
    """Reads it."""
    return Qwen25Tower(
        spec,
        load_patch_embedding(spec.grid, tensors),
        load_blocks(spec.blocks, tensors),
        load_merger("projector", spec.blocks.norm_eps, tensors),
    )
