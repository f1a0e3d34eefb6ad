"""Qwen2_5_VLForConditionalGeneration (arXiv:2502.13923).

Defaults are those of transformers' Qwen2_5_VLConfig and Qwen2_5_VLVisionConfig.
"""

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.towers import read_axial_theta, read_patch_grid, read_qwen_blocks, read_video_tokens
from triptych.models.spec import Qwen25Vision


def read_vision(fields: Fields, output_size: int) -> Qwen25Vision:
    """The vision side."""
    tower = fields.section("vision_config")
    tower.choice("hidden_act", "silu", ("silu",))
    grid = read_patch_grid(tower, 14)
    blocks = read_qwen_blocks(tower, hidden_size=3584, intermediate_size=3420, num_layers=32)
    window, row = tower.count("window_size", 112), grid.patch_size * grid.merge
    if window < row:
        raise InvalidArgument(
            f"config: vision_config.window_size must be at least the {row} pixels of a row, got {window}",
            field="vision_config.window_size",
        )
    require_width(tower, output_size)
    return Qwen25Vision(
        blocks=blocks,
        grid=grid,
        output_size=output_size,
        rope_theta=read_axial_theta(tower),
        window=window // grid.merge // grid.patch_size,
        full_layers=frozenset(tower.integers("fullatt_block_indexes", (7, 15, 23, 31))),
        tokens_per_second=tower.positive("tokens_per_second", 4),
        video=read_video_tokens(fields),
    )


def require_width(tower: Fields, output_size: int) -> None:
    """Refuses a tower whose rows are not as wide as the language model."""
    if (width := tower.count("out_hidden_size", 3584)) != output_size:
        raise InvalidArgument(
            f"config: vision_config.out_hidden_size must be text_config.hidden_size = {output_size}, got {width}",
            field="vision_config.out_hidden_size",
        )
