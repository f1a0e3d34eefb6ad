"""GptOssForCausalLM (arXiv:2508.10925), with the defaults of transformers' GptOssConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    NAMES,
    language_model,
    pre_norm,
    read_attention,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import read_experts
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.recipes.windows import FULL, SLIDING, layer_types, windowed
from triptych.models.spec import AttentionSpec, ClampedGate, ModelSpec, MoeSpec, NormSpec, SoftmaxRouter

_GATE_UP = Place(
    "model.layers.{0}.mlp.experts.gate_up_proj", stacked=True, transposed=True, every=2, weight="", bias="_bias"
)
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "num_attention_heads": 64,
    "rms_norm_eps": 1e-5,
}


def read_gpt_oss(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: attention with sinks, every other layer in a window."""
    if config.get("rope_parameters") is None and config.get("rope_scaling") is None:
        config = {**config, "rope_parameters": _YARN}
    fields = Fields(config, defaults=_DEFAULTS)
    norm, mixture = NormSpec(fields.positive("rms_norm_eps", 1e-5)), _mixture(fields)
    layers = tuple(pre_norm(attention, mixture, norm) for attention in _attentions(fields))
    decoder = replace(stacked(fields, layers, tied_head=tied_head(fields)), norm=norm)
    return language_model("GptOssForCausalLM", fields, decoder, context=context_length(fields, 131072))


def _attentions(fields: Fields) -> tuple[AttentionSpec, ...]:
    bias = fields.flag("attention_bias", True)
    plain = read_attention(fields, bias=bias, output_bias=bias, kv_heads=8, head_dim=64, theta=150000.0)
    default = tuple(FULL if index % 2 else SLIDING for index in range(fields.few("num_hidden_layers", 36)))
    return windowed(
        replace(plain, sinks=True), layer_types(fields, default), fields.optional_count("sliding_window", 128)
    )


def _mixture(fields: Fields) -> MoeSpec:
    router = SoftmaxRouter(renormalise=True, bias=True)
    plain = read_experts(fields, router, experts=128, top_k=4, width="intermediate_size", default_width=2880)
    gate = ClampedGate(fields.positive("swiglu_alpha", 1.702), fields.positive("swiglu_limit", 7.0))
    return replace(plain, activation=gate, bias=True)


GPT_OSS = Recipe(
    read=read_gpt_oss,
    names={
        **NAMES,
        "layers.{}.attention.sinks": Place("model.layers.{0}.self_attn.sinks", weight=""),
        "layers.{}.mlp.router": "model.layers.{0}.mlp.router",
        "layers.{}.mlp.experts.{}.gate": _GATE_UP,
        "layers.{}.mlp.experts.{}.up": replace(_GATE_UP, first=1),
        "layers.{}.mlp.experts.{}.down": Place(
            "model.layers.{0}.mlp.experts.down_proj", stacked=True, transposed=True, weight="", bias="_bias"
        ),
    },
)
