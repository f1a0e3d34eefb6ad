"""Configs of models that read pictures: what they mean, and what is refused."""

from typing import Any

import pytest

from triptych.core.errors import InvalidArgument, TriptychError, Unimplemented
from triptych.models.recipes import find_recipe
from triptych.models.spec import (
    AttentionSpec,
    ModelSpec,
    Qwen3Vision,
    Qwen25Vision,
    RopeSections,
    embedding_levels,
)

TEXT: dict[str, Any] = {"vocab_size": 152064, "hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2}
MROPE = {"type": "mrope", "mrope_section": [16, 24, 24]}
CONFIGS: dict[str, dict[str, Any]] = {
    "LlavaNextForConditionalGeneration": {
        "text_config": {"vocab_size": 32064, "model_type": "mistral"},
        "vision_config": {"image_size": 336, "patch_size": 14},
    },
    "Idefics3ForConditionalGeneration": {
        "text_config": {"vocab_size": 130000},
        "vision_config": {"image_size": 364, "patch_size": 14},
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": {"vocab_size": 262208},
        "vision_config": {"image_size": 896, "patch_size": 14},
    },
    "Qwen2_5_VLForConditionalGeneration": {
        "text_config": {**TEXT, "num_key_value_heads": 2, "rope_scaling": MROPE},
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 512},
    },
    "Qwen3VLForConditionalGeneration": {
        "text_config": {**TEXT, "num_key_value_heads": 2},
        "vision_config": {"out_hidden_size": 512},
    },
}


def read(architecture: str, **changes: Any) -> ModelSpec:
    config = CONFIGS[architecture] | {"architectures": [architecture]}
    for name, change in changes.items():
        config[name] = config[name] | change if isinstance(change, dict) else change
    return find_recipe(config).read(config)


def test_qwen2_5_vl_reads_the_flat_configs_of_its_first_checkpoints() -> None:
    nested = CONFIGS["Qwen2_5_VLForConditionalGeneration"]
    flat = nested["text_config"] | {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "vision_config": nested["vision_config"],
        "model_type": "qwen2_5_vl",
    }
    spec = find_recipe(flat).read(flat)
    assert spec == read("Qwen2_5_VLForConditionalGeneration")
    attention = spec.decoder.layers[0].attention
    assert isinstance(attention, AttentionSpec)
    assert attention.rope is not None
    assert (attention.rope.sections, attention.rope.theta) == (RopeSections((16, 24, 24), interleaved=False), 1e6)
    assert (spec.decoder.norm.eps, attention.bias, attention.output_bias) == (1e-5, True, False)
    assert isinstance(spec.vision, Qwen25Vision)
    assert (spec.vision.window, spec.vision.full_layers) == (4, frozenset({7, 15, 23, 31}))
    assert embedding_levels(spec.vision) == 0


def test_qwen3_vl_takes_rows_from_three_depths() -> None:
    vision = read("Qwen3VLForConditionalGeneration").vision
    assert isinstance(vision, Qwen3Vision)
    assert (vision.side, vision.level_layers, embedding_levels(vision)) == (48, (8, 16, 24), 3)


def test_pictures_of_gemma_3_see_themselves_in_every_layer() -> None:
    spec = read("Gemma3ForConditionalGeneration")
    attentions = [layer.attention for layer in spec.decoder.layers]
    assert all(isinstance(attention, AttentionSpec) and attention.images_see_themselves for attention in attentions)
    assert spec.decoder.tied_head


@pytest.mark.parametrize(
    ("architecture", "change", "kind", "field", "said"),
    [
        ("LlavaNext", {"image_grid_pinpoints": [[336, 300]]}, InvalidArgument, "image_grid_pinpoints", "= 336, got"),
        ("LlavaNext", {"image_grid_pinpoints": []}, InvalidArgument, "image_grid_pinpoints", r"pairs .* got \[\]"),
        (
            "LlavaNext",
            {"vision_feature_select_strategy": "full"},
            Unimplemented,
            "vision_feature_select_strategy",
            "'full' is not supported",
        ),
        ("LlavaNext", {"text_config": {"model_type": "opt"}}, Unimplemented, "text_config.model_type", "'opt'"),
        ("LlavaNext", {"image_token_index": 40000}, InvalidArgument, "image_token_index", r"in \[0, 32063\]"),
        ("Idefics3", {"scale_factor": 4}, InvalidArgument, "scale_factor", "divide the 26 patches .* got 4"),
        ("Gemma3", {"mm_tokens_per_image": 200}, InvalidArgument, "mm_tokens_per_image", "square of a divisor"),
        ("Qwen2_5_VL", {"vision_config": {"window_size": 14}}, InvalidArgument, "vision_config.window_size", "28"),
        ("Qwen2_5_VL", {"vision_config": {"hidden_size": 1288}}, InvalidArgument, "vision_config.hidden_size", "16"),
        (
            "Qwen2_5_VL",
            {"vision_config": {"out_hidden_size": 2048}},
            InvalidArgument,
            "vision_config.out_hidden_size",
            "hidden_size = 512, got 2048",
        ),
        (
            "Qwen2_5_VL",
            {"text_config": {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}}},
            InvalidArgument,
            "mrope_section",
            r"half of head_dim = 128, got \[16, 24\]",
        ),
        (
            "Qwen3VL",
            {"vision_config": {"num_position_embeddings": 2300}},
            InvalidArgument,
            "vision_config.num_position_embeddings",
            "a square, got 2300",
        ),
        (
            "Qwen3VL",
            {"vision_config": {"depth": 20}},
            InvalidArgument,
            "vision_config.deepstack_visual_indexes",
            "below depth = 20",
        ),
        ("Qwen3VL", {"vision_config": {"hidden_act": "gelu"}}, Unimplemented, "vision_config.hidden_act", "'gelu'"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(
    architecture: str, change: dict[str, Any], kind: type[TriptychError], field: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        read(f"{architecture}ForConditionalGeneration", **change)
    assert caught.value.field == field
