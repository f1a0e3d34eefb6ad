"""Idefics3ForConditionalGeneration (arXiv:2408.12637) and SmolVLMForConditionalGeneration (arXiv:2504.05299).

Defaults are those of transformers' Idefics3Config and Idefics3VisionConfig.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES, read_decoder
from triptych.models.recipes.multimodal import multimodal_model, text_fields, tied
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.towers import SIGLIP_NAMES, read_siglip
from triptych.models.spec import Idefics3Vision, ModelSpec

_KINDS = ("idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm")
_TEXT = {"rms_norm_eps": 1e-5}
_DEFAULTS = {"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}


def read_idefics3(architecture: str, config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields, text = Fields(config), text_fields(config, _TEXT)
    text.choice("model_type", "llama", ("llama",))
    decoder = read_decoder(text, tied_head=tied(fields, text))
    return multimodal_model(architecture, fields, text, decoder, _vision(fields, decoder.hidden_size), 128257)


def _vision(fields: Fields, output_size: int) -> Idefics3Vision:
    tower = read_siglip(fields.section("vision_config"), _KINDS, _DEFAULTS)
    shuffle = fields.count("scale_factor", 2)
    if tower.side % shuffle:
        raise InvalidArgument(
            f"config: scale_factor must divide the {tower.side} patches along a side, got {shuffle}",
            field="scale_factor",
        )
    return Idefics3Vision(tower, output_size, shuffle)


def _recipe(architecture: str) -> Recipe:
    return Recipe(
        read=partial(read_idefics3, architecture),
        names={**NAMES, **SIGLIP_NAMES, "projector.linear": "connector.modality_projection.proj"},
        roots={
            "model.": ("model.text_model.",),
            "vision_tower.": ("model.vision_model.",),
            "connector.": ("model.connector.",),
        },
    )


IDEFICS3, SMOLVLM = _recipe("Idefics3ForConditionalGeneration"), _recipe("SmolVLMForConditionalGeneration")
