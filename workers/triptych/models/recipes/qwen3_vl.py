"""Qwen3VLForConditionalGeneration (arXiv:2511.21631).

Defaults are those of transformers' Qwen3VLConfig and Qwen3VLVisionConfig.
"""

import math

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.qwen2_5_vl import require_width
from triptych.models.recipes.towers import read_axial_theta, read_patch_grid, read_qwen_blocks, read_video_tokens
from triptych.models.spec import Qwen3Vision


def read_vision(fields: Fields, output_size: int) -> Qwen3Vision:
    """The vision side."""
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
