"""The vision side of a model, as data: one type per family."""

from dataclasses import dataclass
from typing import TypeAlias

from triptych.models.spec.tower import BlocksSpec, ClipTower, PatchGrid, ProjectorSpec, SiglipTower, VideoTokens


@dataclass(frozen=True, slots=True)
class LlavaVision:
    """LLaVA 1.5 (arXiv:2310.03744): one square tile."""

    tower: ClipTower
    projector: ProjectorSpec

    @property
    def output_size(self) -> int:
        """Width of an embedding row."""
        return self.projector.output_size

    @property
    def rows(self) -> int:
        """Embedding rows of a picture."""
        return self.tower.side**2 + int(self.tower.keep_class_token)


@dataclass(frozen=True, slots=True)
class LlavaNextVision:
    """LLaVA-NeXT: the image as a whole, and in tiles of the resolution that fits it best.

    Attributes:
        tower: Without its class token.
        projector: From the tower to the language model.
        resolutions: (height, width) to choose from, in pixels.
    """

    tower: ClipTower
    projector: ProjectorSpec
    resolutions: tuple[tuple[int, int], ...]

    @property
    def output_size(self) -> int:
        """Width of an embedding row."""
        return self.projector.output_size


@dataclass(frozen=True, slots=True)
class Idefics3Vision:
    """Idefics3 (arXiv:2408.12637) and SmolVLM (arXiv:2504.05299): tiles, whose neighbouring patches share a row.

    Attributes:
        tower: Of a tile.
        output_size: Width of an embedding row.
        shuffle: Patches along each side of the square that becomes one row.
    """

    tower: SiglipTower
    output_size: int
    shuffle: int

    @property
    def tile_rows(self) -> int:
        """Embedding rows of a tile."""
        return (self.tower.side // self.shuffle) ** 2


@dataclass(frozen=True, slots=True)
class Gemma3Vision:
    """Gemma 3 (arXiv:2503.19786): one square tile, patches averaged to a fixed number of rows.

    Attributes:
        tower: Of the tile.
        output_size: Width of an embedding row.
        side: Embedding rows along each side.
        begin_token_id: Stands before the rows, and for the whole image in a chat template's output.
        end_token_id: Stands behind them.
    """

    tower: SiglipTower
    output_size: int
    side: int
    begin_token_id: int
    end_token_id: int


@dataclass(frozen=True, slots=True)
class Qwen25Vision:
    """Qwen2.5-VL (arXiv:2502.13923): root-mean-square norms, gated feed-forward blocks, attention within windows.

    Attributes:
        blocks: Its layers.
        grid: Its patches.
        output_size: Width of an embedding row.
        rope_theta: Base of the rotary embedding, whose halves are turned by row and by column.
        window: Rows along each side of a window.
        full_layers: Layers that see the whole picture.
        tokens_per_second: Temporal positions of a second of video.
        video: Tokens of videos.
    """

    blocks: BlocksSpec
    grid: PatchGrid
    output_size: int
    rope_theta: float
    window: int
    full_layers: frozenset[int]
    tokens_per_second: float
    video: VideoTokens


@dataclass(frozen=True, slots=True)
class Qwen3Vision:
    """Qwen3-VL (arXiv:2511.21631): learnt positions next to rotary ones, rows from several depths.

    Attributes:
        blocks: Its layers.
        grid: Its patches.
        output_size: Width of an embedding row.
        rope_theta: Base of the rotary embedding, whose halves are turned by row and by column.
        side: Learnt positions along each side; in between they are interpolated.
        level_layers: Layers whose outputs become extra rows (DeepStack, arXiv:2406.04334), one per decoder layer.
        video: Tokens of videos.
    """

    blocks: BlocksSpec
    grid: PatchGrid
    output_size: int
    rope_theta: float
    side: int
    level_layers: tuple[int, ...]
    video: VideoTokens


VisionSpec: TypeAlias = LlavaVision | LlavaNextVision | Idefics3Vision | Gemma3Vision | Qwen25Vision | Qwen3Vision


def embedding_levels(spec: VisionSpec) -> int:
    """Extra embeddings of every row, added to the residual stream behind the first decoder layers."""
    return len(spec.level_layers) if isinstance(spec, Qwen3Vision) else 0
