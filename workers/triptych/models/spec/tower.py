"""What vision towers are put together from, as data."""

from dataclasses import dataclass
from typing import Literal

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
