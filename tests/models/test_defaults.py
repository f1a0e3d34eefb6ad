"""What a config leaves out is what transformers takes it for."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from triptych.models.recipes import RECIPES, find_recipe

KINDS = {name: kind for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()} | {
    "LlamaForCausalLM": "llama", "Gemma3ForCausalLM": "gemma3_text",
}  # fmt: skip
LANGUAGE = sorted(name for name in RECIPES if name.endswith("CausalLM"))


@pytest.mark.parametrize("architecture", LANGUAGE)
def test_a_config_that_leaves_everything_out_is_the_default_config(architecture: str) -> None:
    full = CONFIG_MAPPING[KINDS[architecture]]().to_dict() | {"architectures": [architecture]}
    left_out = {key: full[key] for key in ("architectures", "eos_token_id")}  # no published config leaves out its end
    assert find_recipe(left_out).read(left_out) == find_recipe(full).read(full)


def test_gemma_3_as_it_is_published_leaves_most_of_its_language_model_out() -> None:
    config: dict[str, Any] = {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256,
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {
            "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model",
            "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
        },
    }  # fmt: skip
    spec = find_recipe(config).read(config)
    attention: Any = spec.decoder.layers[5].attention
    assert (spec.decoder.vocab_size, attention.num_heads, attention.num_kv_heads, attention.head_dim) == (
        262208,
        8,
        4,
        256,
    )
    assert (attention.window, attention.rope.theta, attention.rope.scaling.factor) == (0, 1e6, 8.0)
    assert spec.context_length == 131072


def test_yarn_serves_the_stretched_context_and_longrope_the_one_before() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768}
    assert find_recipe(config).read(config | {"rope_scaling": yarn}).context_length == 131072
    factors = {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    config = {
        "architectures": ["Phi3ForCausalLM"], "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096, "rope_scaling": factors,
    }  # fmt: skip
    assert find_recipe(config).read(config).context_length == 4096


def test_gemma_3_before_transformers_5_names_its_pattern_and_its_local_base() -> None:
    config: dict[str, Any] = {
        "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 4, "sliding_window_pattern": 2,
        "rope_local_base_freq": 500.0, "rope_theta": 2e6, "sliding_window": 64,
    }  # fmt: skip
    attentions: list[Any] = [layer.attention for layer in find_recipe(config).read(config).decoder.layers]
    assert [(a.window, a.rope.theta) for a in attentions] == [(64, 500.0), (0, 2e6), (64, 500.0), (0, 2e6)]
