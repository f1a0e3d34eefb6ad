"""Idefics3ForConditionalGeneration (arXiv:2408.12637) and SmolVLMForConditionalGeneration (arXiv:2504.05299).

Defaults are those of transformers' Idefics3Config and Idefics3VisionConfig.
"""

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.towers import read_siglip
from triptych.models.spec import Idefics3Vision

_KINDS = ("idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm")
_DEFAULTS = {"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}


def read_vision(fields: Fields, output_size: int) -> Idefics3Vision:
    """The vision side."""
    tower = read_siglip(fields.section("vision_config"), _KINDS, _DEFAULTS)
    shuffle = fields.count("scale_factor", 2)
    if tower.side % shuffle:
        raise InvalidArgument(
            f"config: scale_factor must divide the {tower.side} patches along a side, got {shuffle}",
            field="scale_factor",
        )
    return Idefics3Vision(tower, output_size, shuffle)
