"""Phi3ForCausalLM (arXiv:2404.14219; Phi-4 mini too), with the defaults of transformers' Phi3Config."""

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
    read_mlp,
    read_norm,
    stacked,
    tied_head,
)
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import ModelSpec

_QKV = Place("model.layers.{0}.self_attn.qkv_proj", of=("query", "key", "value"))
_GATE_UP = Place("model.layers.{0}.mlp.gate_up_proj", of=("gate", "up"))


_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "rms_norm_eps": 1e-5,
}


def read_phi3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    attention = replace(read_attention(fields), window=fields.optional_count("sliding_window", None) or 0)
    layer = pre_norm(attention, read_mlp(fields), read_norm(fields))
    decoder = stacked(fields, (layer,) * num_layers(fields), tied_head=tied_head(fields))
    return language_model("Phi3ForCausalLM", fields, decoder, context=context_length(fields, 4096))


PHI3 = Recipe(
    read=read_phi3,
    names={
        **NAMES,
        "layers.{}.attention.query": _QKV,
        "layers.{}.attention.key": _QKV,
        "layers.{}.attention.value": _QKV,
        "layers.{}.mlp.gate": _GATE_UP,
        "layers.{}.mlp.up": _GATE_UP,
    },
)
