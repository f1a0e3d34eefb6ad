"""What the configs of Qwen's vision towers have in common, and what checkpoints call their tensors."""

from collections.abc import Mapping
from typing import Final

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.place import Place
from triptych.models.recipes.towers import require_heads
from triptych.models.spec import BlocksSpec, PatchGrid, VideoTokens

QWEN_ROOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "model.": ("model.language_model.", "model."),
    "visual.": ("model.visual.", "visual."),
}


def read_qwen_blocks(tower: Fields, *, hidden_size: int, intermediate_size: int, num_layers: int) -> BlocksSpec:
    """The layers of a Qwen tower; the numbers are the defaults of its config."""
    blocks = BlocksSpec(
        hidden_size=tower.count("hidden_size", hidden_size),
        intermediate_size=tower.count("intermediate_size", intermediate_size),
        num_heads=tower.count("num_heads", 16),
        num_layers=tower.few("depth", num_layers),
        activation="gelu_tanh",
        norm_eps=1e-6,
    )
    require_heads(blocks)
    if blocks.head_dim % 4:
        raise InvalidArgument(
            f"config: vision_config.hidden_size must be a multiple of 4 · {blocks.num_heads} heads, "
            f"got {blocks.hidden_size}",
            field="vision_config.hidden_size",
        )
    return blocks


def read_patch_grid(tower: Fields, patch_size: int) -> PatchGrid:
    """How a Qwen tower cuts pictures and videos."""
    return PatchGrid(
        patch_size=tower.count("patch_size", patch_size),
        frames=tower.count("temporal_patch_size", 2),
        merge=tower.count("spatial_merge_size", 2),
        num_channels=tower.count("in_channels", 3),
    )


def read_axial_theta(tower: Fields) -> float:
    """The base of the rotary embedding of rows and columns."""
    rope = tower.section("rope_parameters")
    rope.choice("rope_type", "axial", ("axial",))
    return rope.positive("rope_theta", 10000.0)


def read_video_tokens(fields: Fields) -> VideoTokens:
    """Qwen's tokens of a video."""
    return VideoTokens(
        row_id=fields.integer("video_token_id", 151656),
        begin_id=fields.integer("vision_start_token_id", 151652),
        end_id=fields.integer("vision_end_token_id", 151653),
    )


def require_width(tower: Fields, output_size: int) -> None:
    """Refuses a tower whose rows are not as wide as the language model."""
    if (width := tower.count("out_hidden_size", 3584)) != output_size:
        raise InvalidArgument(
            f"config: vision_config.out_hidden_size must be text_config.hidden_size = {output_size}, got {width}",
            field="vision_config.out_hidden_size",
        )


def qwen_layer_names(root: str, mlp: Mapping[str, str]) -> dict[str, str | Place]:
    """Layers of Qwen's towers; `mlp` names the linears of their feed-forward blocks."""
    fused = Place(f"{root}blocks.{{0}}.attn.qkv", of=("query", "key", "value"))
    names: dict[str, str | Place] = {f"vision.layers.{{}}.attention.{part}": fused for part in fused.of}
    theirs = {"attention_norm": "norm1", "attention.output": "attn.proj", "mlp_norm": "norm2"}
    theirs |= {f"mlp.{ours}": f"mlp.{name}" for ours, name in mlp.items()}
    return names | {f"vision.layers.{{}}.{ours}": f"{root}blocks.{{0}}.{name}" for ours, name in theirs.items()}
