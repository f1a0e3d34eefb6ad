"""LlavaNextForConditionalGeneration: LLaVA with tiles of the resolution that fits a picture best.

Defaults are those of transformers' LlavaNextConfig.
"""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES
from triptych.models.recipes.multimodal import language_fields, multimodal_model, read_text, tied
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.towers import CLIP_NAMES, PROJECTOR_NAMES, ROOTS, UNUSED, read_clip, read_projector
from triptych.models.spec import LlavaNextVision, ModelSpec

_RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def read_llava_next(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields, text = Fields(config), language_fields(config)
    decoder = read_text(text, tied_head=tied(fields, text))
    vision = _vision(fields, decoder.hidden_size)
    return multimodal_model("LlavaNextForConditionalGeneration", fields, text, decoder, vision, 32000)


def _vision(fields: Fields, output_size: int) -> LlavaNextVision:
    fields.choice("vision_feature_select_strategy", "default", ("default",))
    tower = read_clip(
        fields.section("vision_config"), fields.integer("vision_feature_layer", -2), keep_class_token=False
    )
    return LlavaNextVision(
        tower=tower,
        projector=read_projector(fields, output_size),
        resolutions=_resolutions(fields, tower.image_size),
    )


def _resolutions(fields: Fields, tile: int) -> tuple[tuple[int, int], ...]:
    pairs = fields.pairs("image_grid_pinpoints", _RESOLUTIONS)
    for height, width in pairs:
        if height % tile or width % tile or not height * width:
            raise InvalidArgument(
                f"config: image_grid_pinpoints must be multiples of vision_config.image_size = {tile}, got "
                f"{height} x {width}",
                field="image_grid_pinpoints",
            )
    return pairs


LLAVA_NEXT = Recipe(
    read=read_llava_next,
    names={**NAMES, **CLIP_NAMES, **PROJECTOR_NAMES, "projector.newline": Place("image_newline", weight="")},
    roots={**ROOTS, "image_newline": ("model.image_newline", "image_newline")},
    ignored=UNUSED,
)
