"""What a model is made of, as data: no tensors, no torch.

A recipe (`triptych.models.recipes`) fills these types from a Hugging Face config; `decoder` and `vision` build the
model that they describe.
"""

from dataclasses import dataclass
from typing import Literal

from triptych.models.config import read_config
from triptych.models.files import ModelFiles

Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1 for contexts longer than it was trained on.

    Wavelengths above original_context / low_frequency are stretched by `factor`, those below
    original_context / high_frequency are kept, and in between the two are mixed.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_context: int


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding over the whole head (arXiv:2104.09864)."""

    theta: float
    scaling: Llama3Scaling | None = None


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention (arXiv:2305.13245); `bias` is on all four projections."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec
    bias: bool


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """Gated feed-forward block, down(silu(gate(x)) · up(x)); `bias` is on all three projections."""

    intermediate_size: int
    bias: bool


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One pre-norm decoder layer; both norms are root-mean-square with `norm_eps`."""

    attention: AttentionSpec
    mlp: MlpSpec
    norm_eps: float


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A language model: embedding, layers, final norm and head.

    Attributes:
        vocab_size: Rows of the embedding and of the head.
        hidden_size: Width of the residual stream.
        layers: From input to output; all of the same shape, because they share workspace and KV pool.
        norm_eps: Of the final norm.
        tied_head: The head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    tied_head: bool


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


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole model.

    Attributes:
        architecture: Hugging Face's name for it; finds the recipe.
        decoder: The language model.
        vision: The tower of a vision-language model.
        image_token_id: The placeholder that an image's tokens have in a prompt.
        eos_token_ids: Tokens that end an answer.
        context_length: Tokens that prompt and answer may have together.
    """

    architecture: str
    decoder: DecoderSpec
    vision: VisionSpec | None
    image_token_id: int | None
    eos_token_ids: tuple[int, ...]
    context_length: int


def read_spec(files: ModelFiles) -> ModelSpec:
    """Reads a model's configuration.

    Raises:
        NotFound: there is no configuration.
        DataLoss: it cannot be parsed.
        InvalidArgument: a field has an impossible value.
        Unimplemented: an architecture or a setting that this version does not have; the message names it.
    """
    from triptych.models.recipes import find_recipe  # recipes fill the types above

    config = read_config(files)
    return find_recipe(config).read(config)
