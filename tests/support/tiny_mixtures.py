"""Checkpoints of tiny mixtures of experts with random weights, as transformers writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
)

from tests.support.seeds import drawn_seed
from triptych.experts.traces import RouteModel, TracedModel, write_route_model
from triptych.models.decoder import Decoder
from triptych.models.expert_route import routers_digest
from triptych.models.experts import MixtureOfExperts
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec

VOCABULARY = 97
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**_SIZES, num_local_experts=8),
    "qwen2_moe": Qwen2MoeConfig(
        **_SIZES, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, shared_expert_intermediate_size=32,
        mlp_only_layers=[1],
    ),
    "gpt_oss": GptOssConfig(**_SIZES, num_local_experts=8, num_experts_per_tok=3, head_dim=16, sliding_window=21),
    "deepseek": DeepseekV3Config(
        **{**_SIZES, "num_key_value_heads": 4}, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3,
        moe_intermediate_size=32, n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48,
        qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16,
    ),
}  # fmt: skip
"""Layers without experts come first, in between, or not at all."""


def save_mixture(name: str, folder: Path) -> ModelFiles:
    """Writes one of `CONFIGS`; biases and corrections are random, too."""
    seed = drawn_seed()
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for key, values in (*model.named_parameters(), *model.named_buffers()):
            if key.endswith(("bias", "sinks")):
                values.normal_(0, 0.2)
    model.save_pretrained(folder)
    return ModelFiles(name, folder, "safetensors")


def save_route(files: ModelFiles, path: Path) -> Path:
    """Writes a predictor of a mixtral, trained as far as anybody can tell."""
    layers = Decoder.load(files, read_spec(files), torch.float32)._layers
    routers = [layer.mlp.mixer.router for layer in layers if isinstance(layer.mlp.mixer, MixtureOfExperts)]
    model = TracedModel("tiny", routers_digest(routers), layers=4, experts=8, top_k=2, hidden=64, blob=1, resident=1)
    weight, bias = np.random.default_rng(drawn_seed()).normal(size=(32, 64)), np.zeros(32)
    write_route_model(path, RouteModel(model, weight.astype(np.float32), bias.astype(np.float32)))
    return path
