"""LlavaForConditionalGeneration (arXiv:2304.08485): a CLIP tower, a two-layer projector and a Llama decoder.

Defaults are those of transformers' LlavaConfig and CLIPVisionConfig.
"""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES, read_decoder
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.recipes.towers import CLIP_NAMES, PROJECTOR_NAMES, ROOTS, read_clip, read_projector
from triptych.models.spec import LlavaVision, ModelSpec


def read_llava(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields = Fields(config)
    text = fields.section("text_config")
    text.choice("model_type", "llama", ("llama",))
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


def _vision(fields: Fields, output_size: int) -> LlavaVision:
    strategy = fields.choice("vision_feature_select_strategy", "default", ("default", "full"))
    tower = fields.section("vision_config")
    return LlavaVision(
        tower=read_clip(tower, fields.integer("vision_feature_layer", -2), keep_class_token=strategy == "full"),
        projector=read_projector(fields, output_size),
    )


LLAVA = Recipe(
    read=read_llava,
    names={**NAMES, **CLIP_NAMES, **PROJECTOR_NAMES},
    roots=ROOTS,
    # Features are taken before the last layers, and before the norm behind them.
    ignored=("*vision_tower.*post_layernorm.*", "*vision_tower.*encoder.layers.*"),
)
