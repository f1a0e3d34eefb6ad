"""Gemma3ForConditionalGeneration (arXiv:2503.19786).

Defaults are those of transformers' Gemma3Config and SiglipVisionConfig.
"""

import math

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.towers import read_siglip
from triptych.models.spec import Gemma3Vision

_DEFAULTS = {"hidden_size": 768, "num_attention_heads": 12, "patch_size": 16}


def read_vision(fields: Fields, output_size: int) -> Gemma3Vision:
    """The vision side."""
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
