"""The vision side of a model, as data: one type per family, put together from towers and projectors."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class BlocksSpec:
    """Transformer layers in which every token of a segment sees every other: pre-norm in towers, post-norm in BERT.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward blocks.
        num_heads: Attention heads.
        num_layers: Layers that run: those up to the one that features are taken from.
        activation: Of feed-forward blocks without a gate; those with one have SiLU.
        norm_eps: Of the norms.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    activation: Activation
    norm_eps: float

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True)
class ClipTower:
    """A CLIP vision transformer (arXiv:2103.00020).

    Attributes:
        blocks: Its layers.
        image_size: Height and width of a tile; the rest to the right and below whole patches is not seen.
        patch_size: Height and width of a patch.
        num_channels: Colour channels.
        keep_class_token: The class token is a feature too.
    """

    blocks: BlocksSpec
    image_size: int
    patch_size: int
    num_channels: int
    keep_class_token: bool

    @property
    def side(self) -> int:
        """Patches along each side of a tile."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True)
class SiglipTower:
    """A SigLIP vision transformer (arXiv:2303.15343): no class token, a norm behind the layers.

    Attributes:
        blocks: Its layers.
        image_size: Height and width of a tile.
        patch_size: Height and width of a patch.
        num_channels: Colour channels.
    """

    blocks: BlocksSpec
    image_size: int
    patch_size: int
    num_channels: int

    @property
    def side(self) -> int:
        """Patches along each side of a tile."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """The two linears that map image features to token embeddings; `bias` is on both."""

    output_size: int
    activation: Activation
    bias: bool


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
class PatchGrid:
    """How pictures of any size, and videos, become patches (Qwen2-VL, arXiv:2409.12191).

    Attributes:
        patch_size: Height and width of a patch.
        frames: Frames that a patch is deep; a picture is repeated.
        merge: Patches along each side of the square that becomes one row.
        num_channels: Colour channels.
    """

    patch_size: int
    frames: int
    merge: int
    num_channels: int

    @property
    def width(self) -> int:
        """Numbers in a patch."""
        return self.num_channels * self.frames * self.patch_size**2


@dataclass(frozen=True, slots=True)
class VideoTokens:
    """The tokens of a video in a prompt: its rows', and those around every run of them."""

    row_id: int
    begin_id: int
    end_id: int


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
