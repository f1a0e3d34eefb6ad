"""Qwen2MoeForCausalLM (arXiv:2407.10671), with the defaults of transformers' Qwen2MoeConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    NAMES,
    language_model,
    pre_norm,
    read_attention,
    read_mlp,
    read_norm,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import EXPERT_NAMES, read_experts, sparse_layers
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.recipes.windows import FULL, SLIDING, layer_types, windowed
from triptych.models.spec import MlpSpec, ModelSpec, MoeSpec, SoftmaxRouter

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
}


def read_qwen2_moe(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: an expert that every token uses has a gate of its own."""
    fields = Fields(config, defaults=_DEFAULTS)
    attention = read_attention(fields, bias=fields.flag("qkv_bias", True), kv_heads=16)
    attentions = windowed(attention, *_windows(fields))
    mixture, norm = _mixture(fields), read_norm(fields)
    layers = sparse_layers(fields, tuple(pre_norm(a, mixture, norm) for a in attentions), read_mlp(fields))
    decoder = stacked(fields, layers, tied_head=tied_head(fields))
    return language_model("Qwen2MoeForCausalLM", fields, decoder, context=context_length(fields, 32768))


def _mixture(fields: Fields) -> MoeSpec:
    router = SoftmaxRouter(renormalise=fields.flag("norm_topk_prob", False))
    mixture = read_experts(fields, router, experts=60, top_k=4, width="moe_intermediate_size", default_width=1408)
    shared = MlpSpec(fields.count("shared_expert_intermediate_size", 5632))
    return replace(mixture, shared=shared, shared_gate=True)


def _windows(fields: Fields) -> tuple[tuple[str, ...], int | None]:
    """Which layers have a window, every other one before `max_window_layers` as a rule, and how wide it is."""
    count = fields.few("num_hidden_layers", 24)
    if not fields.flag("use_sliding_window", False):
        return (FULL,) * count, None
    last = fields.integer("max_window_layers", 28)
    default = tuple(SLIDING if index % 2 == 0 and index < last else FULL for index in range(count))
    return layer_types(fields, default), fields.optional_count("sliding_window", 4096)


QWEN2_MOE = Recipe(
    read=read_qwen2_moe,
    names={
        **NAMES,
        **EXPERT_NAMES,
        "layers.{}.mlp.shared.gate": "model.layers.{0}.mlp.shared_expert.gate_proj",
        "layers.{}.mlp.shared.up": "model.layers.{0}.mlp.shared_expert.up_proj",
        "layers.{}.mlp.shared.down": "model.layers.{0}.mlp.shared_expert.down_proj",
        "layers.{}.mlp.shared_gate": "model.layers.{0}.mlp.shared_expert_gate",
    },
)
