"""Mixtures of experts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ARCHITECTURES

from triptych.models.decoder import Decoder
from triptych.models.experts import MixtureOfExperts
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    "rms_norm_eps": 1e-2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# The second of a family has the other value wherever a flag changes what is computed.
CONFIGS: dict[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=6, sliding_window=21),
    "mixtral_tied": MixtralConfig(**SIZES, num_local_experts=4, head_dim=32, tie_word_embeddings=True),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40,
        mlp_only_layers=[1], use_sliding_window=True, sliding_window=21, max_window_layers=3,
    ),
    "qwen2_moe_renormalised": Qwen2MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40,
        norm_topk_prob=True, decoder_sparse_step=2,
    ),
    "qwen3_moe_plain": Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=False,
        mlp_only_layers=[2], head_dim=16,
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True,
        decoder_sparse_step=2, attention_bias=True,
    ),
    "olmoe": OlmoeConfig(**SIZES, num_experts=8, num_experts_per_tok=3),
    "olmoe_renormalised": OlmoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, attention_bias=True, clip_qkv=None
    ),
    "granitemoe": GraniteMoeConfig(
        **SIZES, num_local_experts=6, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4,
        attention_multiplier=0.2,
    ),
    "granitemoe_biased": GraniteMoeConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=3, attention_bias=True, tie_word_embeddings=True
    ),
    "gpt_oss_unbiased": GptOssConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, head_dim=32, attention_bias=False,
        tie_word_embeddings=True, layer_types=["full_attention"] * 2 + ["sliding_attention"] * 2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, sliding_window=21,
    ),
    "gpt_oss": GptOssConfig(
        **SIZES, num_local_experts=6, num_experts_per_tok=3, head_dim=16, sliding_window=21, swiglu_limit=0.7,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "truncate": False,
            "original_max_position_embeddings": 64,
        },
    ),
    "deepseek_v3": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3,
        moe_intermediate_size=24, n_shared_experts=2, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48,
        qk_rope_head_dim=16, qk_nope_head_dim=24, v_head_dim=20, routed_scaling_factor=1.7,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7,
            "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1,
        },
    ),
    "deepseek_v3_plain": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2,
        moe_intermediate_size=24, first_k_dense_replace=2, kv_lora_rank=32, q_lora_rank=None, rope_interleave=False,
        qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16, attention_bias=True, norm_topk_prob=False,
    ),
}  # fmt: skip
DIVIDED_BY_FOUR = {"qwen2_moe", "gpt_oss", "deepseek_v3"}
"""Among more ranks than KV heads."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.family(ARCHITECTURES[CONFIGS[name].model_type])) for name in CONFIGS],
)
def test_logits_and_answers_are_those_of_transformers(
    name: str, parity: Callable[[PretrainedConfig, tuple[int, ...]], object]
) -> None:
    parity(CONFIGS[name], (2, 4) if name in DIVIDED_BY_FOUR else (2,))


def test_what_a_router_adds_to_scores_keeps_its_precision(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_config(CONFIGS["deepseek_v3"], dtype=torch.float32)  # type: ignore[no-untyped-call]
    correction = model.model.layers[1].mlp.gate.e_score_correction_bias
    correction.copy_(1 + torch.randn_like(correction) / 1000)
    model.save_pretrained(tmp_path)
    files = ModelFiles("tiny", tmp_path, "safetensors")
    decoder = Decoder.load(files, read_spec(files), torch.bfloat16)
    mixture = decoder._layers[1].mlp.mixer
    assert isinstance(mixture, MixtureOfExperts)
    assert mixture.correction is not None
    assert torch.equal(mixture.correction, correction)
