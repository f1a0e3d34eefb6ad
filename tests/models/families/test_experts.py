"""Mixtures of experts."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import (
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

CONFIGS: dict[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=6, sliding_window=21),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40,
        mlp_only_layers=[1], use_sliding_window=True, sliding_window=21, max_window_layers=3,
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True,
        decoder_sparse_step=2, attention_bias=True,
    ),
    "olmoe": OlmoeConfig(**SIZES, num_experts=8, num_experts_per_tok=3),
    "granitemoe": GraniteMoeConfig(
        **SIZES, num_local_experts=6, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4,
        attention_multiplier=0.2,
    ),
    "gpt_oss": GptOssConfig(
        **SIZES, num_local_experts=6, num_experts_per_tok=3, head_dim=16, sliding_window=21, swiglu_limit=0.7,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "truncate": False,
            "original_max_position_embeddings": 64,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_answers_are_those_of_transformers(
    name: str, parity: Callable[[PretrainedConfig], object]
) -> None:
    parity(CONFIGS[name])
