"""Vision towers and projectors that several families have: their configs, and what checkpoints call their tensors."""

from collections.abc import Mapping
from typing import Final

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.place import Place
from triptych.models.spec import Activation, BlocksSpec, ClipTower, ProjectorSpec, SiglipTower

ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def read_clip(tower: Fields, feature_layer: int, *, keep_class_token: bool) -> ClipTower:
    """A CLIP tower up to the layer that features are taken from, with the defaults of CLIPVisionConfig.

    Args:
        tower: The section vision_config.
        feature_layer: 0 is the input of the layers, −1 the output of the last one.
        keep_class_token: The class token is a feature too.
    """
    tower.choice("model_type", "clip_vision_model", ("clip_vision_model",))
    image_size, patch_size = tower.count("image_size", 224), tower.count("patch_size", 32)
    _require_patch(image_size, patch_size)
    num_layers = tower.few("num_hidden_layers", 12)
    if not -num_layers - 1 <= feature_layer <= num_layers:
        raise InvalidArgument(
            f"config: vision_feature_layer must be in [{-num_layers - 1}, {num_layers}], got {feature_layer}",
            field="vision_feature_layer",
        )
    blocks = BlocksSpec(
        hidden_size=tower.count("hidden_size", 768),
        intermediate_size=tower.count("intermediate_size", 3072),
        num_heads=tower.count("num_attention_heads", 12),
        num_layers=feature_layer % (num_layers + 1),
        activation=read_activation(tower, "hidden_act", "quick_gelu"),
        norm_eps=tower.positive("layer_norm_eps", 1e-5),
    )
    require_heads(blocks)
    return ClipTower(blocks, image_size, patch_size, tower.count("num_channels", 3), keep_class_token)


def read_siglip(tower: Fields, kinds: tuple[str, ...], defaults: Mapping[str, int]) -> SiglipTower:
    """A whole SigLIP tower.

    Args:
        tower: The section vision_config.
        kinds: Its model_type, the default first.
        defaults: Of the family's config, by name.
    """
    tower.choice("model_type", kinds[0], kinds)
    image_size, patch_size = tower.count("image_size", 224), tower.count("patch_size", defaults["patch_size"])
    _require_patch(image_size, patch_size)
    blocks = BlocksSpec(
        hidden_size=tower.count("hidden_size", defaults["hidden_size"]),
        intermediate_size=tower.count("intermediate_size", 3072),
        num_heads=tower.count("num_attention_heads", defaults["num_attention_heads"]),
        num_layers=tower.few("num_hidden_layers", 12),
        activation=read_activation(tower, "hidden_act", "gelu_pytorch_tanh"),
        norm_eps=tower.positive("layer_norm_eps", 1e-6),
    )
    require_heads(blocks)
    return SiglipTower(blocks, image_size, patch_size, tower.count("num_channels", 3))


def read_projector(fields: Fields, output_size: int) -> ProjectorSpec:
    """LLaVA's two linears."""
    return ProjectorSpec(
        output_size=output_size,
        activation=read_activation(fields, "projector_hidden_act", "gelu"),
        bias=fields.flag("multimodal_projector_bias", True),
    )


def read_activation(fields: Fields, name: str, default: str) -> Activation:
    """An activation by Hugging Face's name."""
    return ACTIVATIONS[fields.choice(name, default, tuple(ACTIVATIONS))]


def _require_patch(image_size: int, patch_size: int) -> None:
    if image_size < patch_size:
        raise InvalidArgument(
            f"config: vision_config.image_size must be at least patch_size = {patch_size}, got {image_size}",
            field="vision_config.image_size",
        )


def require_heads(blocks: BlocksSpec) -> None:
    """Refuses layers whose heads do not share their width evenly."""
    if blocks.hidden_size % blocks.num_heads:
        raise InvalidArgument(
            f"config: vision_config.hidden_size must be a multiple of {blocks.num_heads} heads, "
            f"got {blocks.hidden_size}",
            field="vision_config.hidden_size",
        )


def layer_names(root: str) -> dict[str, str | Place]:
    """Layers of CLIP and SigLIP towers, whose names begin with `root`."""
    theirs = {
        "attention_norm": "layer_norm1",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "mlp_norm": "layer_norm2",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }
    return {f"vision.layers.{{}}.{ours}": f"{root}encoder.layers.{{0}}.{name}" for ours, name in theirs.items()}


CLIP_NAMES: Final[Mapping[str, str | Place]] = {
    "vision.patches": "vision_tower.embeddings.patch_embedding",
    "vision.class_token": Place("vision_tower.embeddings.class_embedding", weight=""),
    "vision.positions": "vision_tower.embeddings.position_embedding",
    "vision.norm": "vision_tower.pre_layrnorm",
    **layer_names("vision_tower."),
}

PROJECTOR_NAMES: Final[Mapping[str, str | Place]] = {
    "projector.up": "multi_modal_projector.linear_1",
    "projector.down": "multi_modal_projector.linear_2",
}

UNUSED: Final = ("*vision_tower.*post_layernorm.*", "*vision_tower.*encoder.layers.*")
"""Features are taken before the last layers of CLIP, and before the norm behind them."""

ROOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "model.": ("model.language_model.", "language_model.model."),
    "lm_head.": ("lm_head.", "language_model.lm_head."),
    "vision_tower.": (
        "model.vision_tower.",
        "model.vision_tower.vision_model.",
        "vision_tower.",
        "vision_tower.vision_model.",
    ),
    "multi_modal_projector.": ("model.multi_modal_projector.", "multi_modal_projector."),
}

SIGLIP_NAMES: Final[Mapping[str, str | Place]] = {
    "vision.patches": "vision_tower.embeddings.patch_embedding",
    "vision.positions": "vision_tower.embeddings.position_embedding",
    "vision.output_norm": "vision_tower.post_layernorm",
    **layer_names("vision_tower."),
}
