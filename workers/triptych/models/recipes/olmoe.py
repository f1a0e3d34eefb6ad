"""OlmoeForCausalLM (arXiv:2409.02060), with the defaults of transformers' OlmoeConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    language_model,
    num_layers,
    pre_norm,
    read_attention,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import EXPERT_NAMES, read_experts
from triptych.models.recipes.qwen3 import QWEN3_NAMES
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import ModelSpec, NormSpec, SoftmaxRouter

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "rms_norm_eps": 1e-5,
}


def read_olmoe(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: queries and keys are normalised over all heads."""
    fields = Fields(config, defaults=_DEFAULTS)
    fields.refuse("clip_qkv", None)
    norm, bias = NormSpec(fields.positive("rms_norm_eps", 1e-5)), fields.flag("attention_bias", False)
    attention = replace(read_attention(fields, bias=bias, output_bias=bias), qk_norm="projection", norm=norm)
    router = SoftmaxRouter(renormalise=fields.flag("norm_topk_prob", False))
    experts = read_experts(fields, router, experts=64, top_k=8, width="intermediate_size", default_width=2048)
    layers = (pre_norm(attention, experts, norm),) * num_layers(fields)
    decoder = replace(stacked(fields, layers, tied_head=tied_head(fields)), norm=norm)
    return language_model("OlmoeForCausalLM", fields, decoder, context=context_length(fields, 4096))


OLMOE = Recipe(read=read_olmoe, names={**QWEN3_NAMES, **EXPERT_NAMES})
