"""The vision side of a model, as data."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """The two linears that map image features to token embeddings; `bias` is on both."""

    output_size: int
    activation: Activation
    bias: bool


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """A CLIP vision transformer (arXiv:2103.00020) and the projector behind it.

    Attributes:
        image_size: Height and width of the pixels; the rest to the right and below whole patches is not seen.
        patch_size: Height and width of a patch.
        num_channels: Colour channels.
        hidden_size: Width of the tower.
        intermediate_size: Width of its feed-forward blocks.
        num_heads: Attention heads.
        num_layers: Layers that run: those up to the one that features are taken from.
        activation: Of the feed-forward blocks.
        norm_eps: Of the layer norms.
        keep_class_token: The class token is a feature too.
        projector: From the tower to the language model.
    """

    image_size: int
    patch_size: int
    num_channels: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    activation: Activation
    norm_eps: float
    keep_class_token: bool
    projector: ProjectorSpec

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_image(self) -> int:
        """Rows of the decoder's input that an image takes."""
        return self.num_patches + int(self.keep_class_token)
