"""Qwen2_5_VLForConditionalGeneration (arXiv:2502.13923).

Defaults are those of transformers' Qwen2_5_VLConfig and Qwen2_5_VLVisionConfig.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES
from triptych.models.recipes.multimodal import multimodal_model, text_fields, tied, with_attention
from triptych.models.recipes.qwen2 import read_decoder
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
from triptych.models.recipes.rope import rope_section
from triptych.models.spec import AttentionSpec, DecoderSpec, ModelSpec, Qwen25Vision, RopeSections

_TEXT: Final[Mapping[str, Any]] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_window_layers": 80,
}


def read_qwen2_5_vl(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a vision-language model."""
    sections = config if "text_config" in config else {**config, "text_config": config}  # as the first checkpoints do
    fields, text = Fields(config), text_fields(sections, _TEXT)
    decoder = read_decoder(text, tied_head=tied(fields, text))
    decoder = with_sections(decoder, text, (16, 24, 24), interleaved=False)
    vision = _vision(fields, decoder.hidden_size)
    return multimodal_model("Qwen2_5_VLForConditionalGeneration", fields, text, decoder, vision, 151655)


def with_sections(decoder: DecoderSpec, text: Fields, default: tuple[int, ...], *, interleaved: bool) -> DecoderSpec:
    """The decoder with three positions of every token (arXiv:2409.12191)."""
    sizes = rope_section(text).integers("mrope_section", default)

    def place(attention: AttentionSpec) -> AttentionSpec:
        rope = attention.rope
        if rope is None or len(sizes) != 3 or 2 * sum(sizes) != rope.dimensions:
            raise InvalidArgument(
                f"config: mrope_section must be three numbers, together half of head_dim = {attention.head_dim}, "
                f"got {list(sizes)}",
                field="mrope_section",
            )
        time, height, width = sizes
        return replace(attention, rope=replace(rope, sections=RopeSections((time, height, width), interleaved)))

    return with_attention(decoder, place)


def _vision(fields: Fields, output_size: int) -> Qwen25Vision:
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


QWEN2_5_VL = Recipe(
    read=read_qwen2_5_vl,
    names={
        **NAMES,
        **qwen_layer_names("visual.", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
        "vision.patches": "visual.patch_embed.proj",
        "projector.norm": "visual.merger.ln_q",
        "projector.up": "visual.merger.mlp.0",
        "projector.down": "visual.merger.mlp.2",
    },
    roots=QWEN_ROOTS,
)
