"""LlavaForConditionalGeneration (arXiv:2304.08485): a CLIP tower, a two-layer projector and a Llama decoder.

Defaults are those of transformers' LlavaConfig and CLIPVisionConfig.
"""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES, read_decoder
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import Activation, ModelSpec, ProjectorSpec, VisionSpec

_ACTIVATIONS: tuple[Activation, ...] = ("gelu", "quick_gelu")


def read_llava(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields = Fields(config)
    text = fields.section("text_config")
    text.choice("model_type", "llama", ("llama",))
    fields.refuse("quantization_config", None)
    tied = fields.flag("tie_word_embeddings", False) or text.flag("tie_word_embeddings", False)
    decoder = read_decoder(text, tied_head=tied)
    return ModelSpec(
        architecture="LlavaForConditionalGeneration",
        decoder=decoder,
        vision=_vision(fields, decoder.hidden_size),
        image_token_id=_image_token(fields, decoder.vocab_size),
        eos_token_ids=(fields if fields.has("eos_token_id") else text).token_ids("eos_token_id"),
        context_length=context_length(text),
    )


def _image_token(fields: Fields, vocab_size: int) -> int:
    name = "image_token_id" if fields.has("image_token_id") else "image_token_index"
    token = fields.integer(name, 32000)
    if not 0 <= token < vocab_size:
        raise InvalidArgument(f"config: {name} must be in [0, {vocab_size - 1}], got {token}", field=name)
    return token


def _vision(fields: Fields, output_size: int) -> VisionSpec:
    tower = fields.section("vision_config")
    tower.choice("model_type", "clip_vision_model", ("clip_vision_model",))
    image_size, patch_size = tower.count("image_size", 224), tower.count("patch_size", 32)
    hidden_size, num_heads = tower.count("hidden_size", 768), tower.count("num_attention_heads", 12)
    if image_size < patch_size:
        raise InvalidArgument(
            f"config: vision_config.image_size must be at least patch_size = {patch_size}, got {image_size}",
            field="vision_config.image_size",
        )
    if hidden_size % num_heads:
        raise InvalidArgument(
            f"config: vision_config.hidden_size must be a multiple of {num_heads} heads, got {hidden_size}",
            field="vision_config.hidden_size",
        )
    return VisionSpec(
        image_size=image_size,
        patch_size=patch_size,
        num_channels=tower.count("num_channels", 3),
        hidden_size=hidden_size,
        intermediate_size=tower.count("intermediate_size", 3072),
        num_heads=num_heads,
        num_layers=_feature_layer(fields, tower.count("num_hidden_layers", 12)),
        activation=tower.choice("hidden_act", "quick_gelu", _ACTIVATIONS),
        norm_eps=tower.positive("layer_norm_eps", 1e-5),
        keep_class_token=fields.choice("vision_feature_select_strategy", "default", ("default", "full")) == "full",
        projector=ProjectorSpec(
            output_size=output_size,
            activation=fields.choice("projector_hidden_act", "gelu", _ACTIVATIONS),
            bias=fields.flag("multimodal_projector_bias", True),
        ),
    )


def _feature_layer(fields: Fields, num_layers: int) -> int:
    """Layers to run: `vision_feature_layer` 0 is the tower's input, and −1 the output of its last layer."""
    layer = fields.integer("vision_feature_layer", -2)
    if not -num_layers - 1 <= layer <= num_layers:
        raise InvalidArgument(
            f"config: vision_feature_layer must be in [{-num_layers - 1}, {num_layers}], got {layer}",
            field="vision_feature_layer",
        )
    return layer % (num_layers + 1)


CLIP_NAMES: Mapping[str, str | Place] = {
    "vision.patches": "vision_tower.embeddings.patch_embedding",
    "vision.class_token": Place("vision_tower.embeddings.class_embedding", weight=""),
    "vision.positions": "vision_tower.embeddings.position_embedding",
    "vision.norm": "vision_tower.pre_layrnorm",
    "vision.layers.{}.attention_norm": "vision_tower.encoder.layers.{0}.layer_norm1",
    "vision.layers.{}.attention.query": "vision_tower.encoder.layers.{0}.self_attn.q_proj",
    "vision.layers.{}.attention.key": "vision_tower.encoder.layers.{0}.self_attn.k_proj",
    "vision.layers.{}.attention.value": "vision_tower.encoder.layers.{0}.self_attn.v_proj",
    "vision.layers.{}.attention.output": "vision_tower.encoder.layers.{0}.self_attn.out_proj",
    "vision.layers.{}.mlp_norm": "vision_tower.encoder.layers.{0}.layer_norm2",
    "vision.layers.{}.mlp.up": "vision_tower.encoder.layers.{0}.mlp.fc1",
    "vision.layers.{}.mlp.down": "vision_tower.encoder.layers.{0}.mlp.fc2",
    "projector.up": "multi_modal_projector.linear_1",
    "projector.down": "multi_modal_projector.linear_2",
}

ROOTS: Mapping[str, tuple[str, ...]] = {
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

LLAVA = Recipe(
    read=read_llava,
    names={**NAMES, **CLIP_NAMES},
    roots=ROOTS,
    # Features are taken before the last layers, and before the norm behind them.
    ignored=("*vision_tower.*post_layernorm.*", "*vision_tower.*encoder.layers.*"),
)
