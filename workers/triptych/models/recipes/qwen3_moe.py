"""Qwen3MoeForCausalLM (arXiv:2505.09388), with the defaults of transformers' Qwen3MoeConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    language_model,
    num_layers,
    pre_norm,
    read_attention,
    read_mlp,
    read_norm,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import EXPERT_NAMES, read_experts, sparse_layers
from triptych.models.recipes.qwen3 import QWEN3_NAMES
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import AttentionSpec, ModelSpec, SoftmaxRouter

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
}


def read_qwen3_moe(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    router = SoftmaxRouter(renormalise=fields.flag("norm_topk_prob", False))
    experts = read_experts(fields, router, experts=128, top_k=8, width="moe_intermediate_size", default_width=768)
    layer = pre_norm(_attention(fields), experts, read_norm(fields))
    layers = sparse_layers(fields, (layer,) * num_layers(fields), read_mlp(fields))
    decoder = stacked(fields, layers, tied_head=tied_head(fields))
    return language_model("Qwen3MoeForCausalLM", fields, decoder, context=context_length(fields, 32768))


def _attention(fields: Fields) -> AttentionSpec:
    """Queries and keys are normalised by head; all layers see a window, or none."""
    bias = fields.flag("attention_bias", False)
    slides = fields.flag("use_sliding_window", False)
    return replace(
        read_attention(fields, bias=bias, output_bias=bias, kv_heads=4),
        qk_norm="head",
        norm=read_norm(fields),
        window=(fields.optional_count("sliding_window", 4096) or 0) if slides else 0,
    )


QWEN3_MOE = Recipe(read=read_qwen3_moe, names={**QWEN3_NAMES, **EXPERT_NAMES})
