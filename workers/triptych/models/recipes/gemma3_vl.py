"""Gemma3ForConditionalGeneration (arXiv:2503.19786).

Defaults are those of transformers' Gemma3Config and SiglipVisionConfig.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.gemma3 import DEFAULTS, GEMMA3_NAMES, read_decoder
from triptych.models.recipes.multimodal import multimodal_model, text_fields, with_attention
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.towers import ROOTS, SIGLIP_NAMES, read_siglip
from triptych.models.spec import Gemma3Vision, ModelSpec

_DEFAULTS = {"hidden_size": 768, "num_attention_heads": 12, "patch_size": 16}


def read_gemma3_vl(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model: the tokens of a picture see each other in both directions."""
    fields, text = Fields(config), text_fields(config, {**DEFAULTS, "max_position_embeddings": 131072})
    decoder = replace(read_decoder(text), tied_head=fields.flag("tie_word_embeddings", True))
    decoder = with_attention(decoder, lambda attention: replace(attention, images_see_themselves=True))
    vision = _vision(fields, decoder.hidden_size)
    return multimodal_model("Gemma3ForConditionalGeneration", fields, text, decoder, vision, 262_144)


def _vision(fields: Fields, output_size: int) -> Gemma3Vision:
    tower = read_siglip(fields.section("vision_config"), ("siglip_vision_model",), _DEFAULTS)
    rows = fields.count("mm_tokens_per_image", 256)
    side = math.isqrt(rows)
    if side**2 != rows or tower.side % side:
        raise InvalidArgument(
            f"config: mm_tokens_per_image must be the square of a divisor of the {tower.side} patches along a side, "
            f"got {rows}",
            field="mm_tokens_per_image",
        )
    return Gemma3Vision(
        tower=tower,
        output_size=output_size,
        side=side,
        begin_token_id=fields.integer("boi_token_index", 255_999),
        end_token_id=fields.integer("eoi_token_index", 256_000),
    )


GEMMA3_VL = Recipe(
    read=read_gemma3_vl,
    names={
        **GEMMA3_NAMES,
        **SIGLIP_NAMES,
        "projector.norm": "multi_modal_projector.mm_soft_emb_norm",
        "projector.linear": Place("multi_modal_projector.mm_input_projection_weight", transposed=True, weight=""),
    },
    roots=ROOTS,
    ignored=("*vision_tower.*head.*",),
)
