"""MixtralForCausalLM (arXiv:2401.04088), with the defaults of transformers' MixtralConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    NAMES,
    language_model,
    num_layers,
    pre_norm,
    read_attention,
    stacked,
    tied_head,
)
from triptych.models.recipes.mixture import read_experts
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import ModelSpec, NormSpec, SoftmaxRouter

_EXPERT = "model.layers.{0}.block_sparse_moe.experts.{1}"


_DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-5}


def read_mixtral(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    attention = replace(
        read_attention(fields, kv_heads=8, theta=1e6), window=fields.optional_count("sliding_window", None) or 0
    )
    router = SoftmaxRouter(renormalise=True)
    experts = read_experts(fields, router, experts=8, top_k=2, width="intermediate_size", default_width=14336)
    norm = NormSpec(fields.positive("rms_norm_eps", 1e-5))
    layers = (pre_norm(attention, experts, norm),) * num_layers(fields)
    decoder = replace(stacked(fields, layers, tied_head=tied_head(fields)), norm=norm)
    return language_model("MixtralForCausalLM", fields, decoder, context=context_length(fields, 131072))


MIXTRAL = Recipe(
    read=read_mixtral,
    names={
        **NAMES,
        "layers.{}.mlp.router": "model.layers.{0}.block_sparse_moe.gate",
        "layers.{}.mlp.experts.{}.gate": f"{_EXPERT}.w1",
        "layers.{}.mlp.experts.{}.up": f"{_EXPERT}.w3",
        "layers.{}.mlp.experts.{}.down": f"{_EXPERT}.w2",
    },
)
