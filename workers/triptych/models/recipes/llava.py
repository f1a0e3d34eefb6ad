"""LlavaForConditionalGeneration (arXiv:2304.08485): a CLIP tower and a two-layer projector.

Defaults are those of transformers' LlavaConfig and CLIPVisionConfig.
"""

from collections.abc import Mapping
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES
from triptych.models.recipes.multimodal import language_fields, multimodal_model, read_text, tied
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.towers import CLIP_NAMES, PROJECTOR_NAMES, ROOTS, UNUSED, read_clip, read_projector
from triptych.models.spec import LlavaVision, ModelSpec


def read_llava(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields, text = Fields(config), language_fields(config)
    decoder = read_text(text, tied_head=tied(fields, text))
    vision = _vision(fields, decoder.hidden_size)
    return multimodal_model("LlavaForConditionalGeneration", fields, text, decoder, vision, 32000)


def _vision(fields: Fields, output_size: int) -> LlavaVision:
    strategy = fields.choice("vision_feature_select_strategy", "default", ("default", "full"))
    tower = fields.section("vision_config")
    return LlavaVision(
        tower=read_clip(tower, fields.integer("vision_feature_layer", -2), keep_class_token=strategy == "full"),
        projector=read_projector(fields, output_size),
    )


LLAVA = Recipe(read=read_llava, names={**NAMES, **CLIP_NAMES, **PROJECTOR_NAMES}, roots=ROOTS, ignored=UNUSED)
