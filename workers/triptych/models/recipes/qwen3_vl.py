"""Qwen3VLForConditionalGeneration (arXiv:2511.21631).

Defaults are those of transformers' Qwen3VLConfig and Qwen3VLVisionConfig.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.multimodal import multimodal_model, text_fields, tied
from triptych.models.recipes.place import Place
from triptych.models.recipes.qwen2_5_vl import with_sections
from triptych.models.recipes.qwen3 import QWEN3_NAMES, read_decoder
from triptych.models.recipes.qwen_tower import (
    QWEN_ROOTS,
    qwen_layer_names,
    read_axial_theta,
    read_patch_grid,
    read_qwen_blocks,
    read_video_tokens,
    require_width,
)
from triptych.models.recipes.recipe import Recipe
from triptych.models.spec import ModelSpec, Qwen3Vision

_TEXT: Final[Mapping[str, Any]] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 128000,
    "rope_theta": 500000.0,
}


def read_qwen3_vl(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    fields, text = Fields(config), text_fields(config, _TEXT)
    decoder = read_decoder(text, tied_head=tied(fields, text))
    decoder = with_sections(decoder, text, (24, 20, 20), interleaved=True)
    vision = _vision(fields, decoder.hidden_size)
    return multimodal_model("Qwen3VLForConditionalGeneration", fields, text, decoder, vision, 151655)


def _vision(fields: Fields, output_size: int) -> Qwen3Vision:
    tower = fields.section("vision_config")
    tower.choice("hidden_act", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",))
    blocks = read_qwen_blocks(tower, hidden_size=1152, intermediate_size=4304, num_layers=27)
    places = tower.count("num_position_embeddings", 2304)
    if math.isqrt(places) ** 2 != places:
        raise InvalidArgument(
            f"config: vision_config.num_position_embeddings must be a square, got {places}",
            field="vision_config.num_position_embeddings",
        )
    levels = tower.integers("deepstack_visual_indexes", (8, 16, 24))
    if any(level >= blocks.num_layers for level in levels):
        raise InvalidArgument(
            f"config: vision_config.deepstack_visual_indexes must be below depth = {blocks.num_layers}, got "
            f"{list(levels)}",
            field="vision_config.deepstack_visual_indexes",
        )
    require_width(tower, output_size)
    return Qwen3Vision(
        blocks=blocks,
        grid=read_patch_grid(tower, 16),
        output_size=output_size,
        rope_theta=read_axial_theta(tower),
        side=math.isqrt(places),
        level_layers=levels,
        video=read_video_tokens(fields),
    )


def _merger(ours: str, theirs: str) -> Mapping[str, str | Place]:
    names = {"norm": "norm", "up": "linear_fc1", "down": "linear_fc2"}
    return {f"{ours}.{name}": f"{theirs}.{names[name]}" for name in names}


QWEN3_VL = Recipe(
    read=read_qwen3_vl,
    names={
        **QWEN3_NAMES,
        **qwen_layer_names("visual.", {"up": "linear_fc1", "down": "linear_fc2"}),
        "vision.patches": "visual.patch_embed.proj",
        "vision.positions": "visual.pos_embed",
        **_merger("projector", "visual.merger"),
        **_merger("projector.levels.{}", "visual.deepstack_merger_list.{0}"),
    },
    roots=QWEN_ROOTS,
)
