"""Dense language models."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ARCHITECTURES

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    "rms_norm_eps": 1e-2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 5000.0, "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.0],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "partial_rotary_factor": 0.75,
}  # fmt: skip

TUNED = YARN | {"beta_fast": 12.0, "beta_slow": 2.0, "attention_factor": 1.3}
LISTED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

# The second of a family has other values than the defaults wherever the first has those.
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama_linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
    "llama_dynamic": LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}),
    "llama_yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama_yarn_tuned": LlamaConfig(**SIZES, rope_parameters=TUNED, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=21),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=21, max_window_layers=2),
    "qwen2_listed": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=21, layer_types=LISTED, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
    "qwen3_listed": Qwen3Config(**SIZES, head_dim=16, use_sliding_window=True, sliding_window=21, layer_types=LISTED),
    "qwen3_biased": Qwen3Config(**SIZES, head_dim=16, attention_bias=True, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**SIZES, mlp_bias=True),
    "smollm3_window": SmolLM3Config(**SIZES, use_sliding_window=True, sliding_window=21, no_rope_layer_interval=2),
    "granite": GraniteConfig(
        **SIZES, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4, attention_multiplier=0.2
    ),
    "granite_biased": GraniteConfig(**SIZES, mlp_bias=True, attention_bias=True, tie_word_embeddings=True),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=16, sliding_window=21, query_pre_attn_scalar=20, attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
    ),
    "gemma2_uncapped": Gemma2Config(
        **SIZES, head_dim=16, sliding_window=21, hidden_activation="gelu", attn_logit_softcapping=None,
        final_logit_softcapping=None, attention_bias=True, tie_word_embeddings=False, layer_types=LISTED,
    ),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=21, query_pre_attn_scalar=20, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention", "full_attention",
    ]),
    "gemma3_stretched": Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=21, layer_types=LISTED, final_logit_softcapping=8.0, attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
        },
    ),
    "olmo2": Olmo2Config(**SIZES),
    "olmo2_biased": Olmo2Config(**SIZES, attention_bias=True, tie_word_embeddings=True),
    "olmo3": Olmo3Config(**SIZES, sliding_window=21),
    "olmo3_stretched": Olmo3Config(
        **SIZES, sliding_window=21, layer_types=LISTED, attention_bias=True,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}, "full_attention": TUNED,
        },
    ),
}  # fmt: skip
DIVIDED_BY_FOUR = {"llama", "olmo2", "gemma2"}
"""Among more ranks than KV heads."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.family(ARCHITECTURES[CONFIGS[name].model_type])) for name in CONFIGS],
)
def test_logits_and_answers_are_those_of_transformers(
    name: str, parity: Callable[[PretrainedConfig, tuple[int, ...]], object]
) -> None:
    parity(CONFIGS[name], (2, 4) if name in DIVIDED_BY_FOUR else (2,))


@pytest.mark.family("Phi3ForCausalLM")
@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}, LONG])
def test_phi3(rope: dict[str, Any], parity: Callable[[PretrainedConfig], object]) -> None:
    parity(Phi3Config(**SIZES, rope_parameters=rope, sliding_window=21, original_max_position_embeddings=128))
