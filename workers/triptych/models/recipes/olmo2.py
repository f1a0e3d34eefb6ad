"""Olmo2ForCausalLM (arXiv:2501.00656), with the defaults of transformers' Olmo2Config: norms after the blocks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import (
    NAMES,
    language_model,
    num_layers,
    read_attention,
    read_mlp,
    stacked,
    tied_head,
)
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.spec import AttentionSpec, DecoderSpec, LayerSpec, ModelSpec, Norms, NormSpec

OLMO_NAMES: Mapping[str, str | Place] = {
    **NAMES,
    "layers.{}.attention.query_norm": "model.layers.{0}.self_attn.q_norm",
    "layers.{}.attention.key_norm": "model.layers.{0}.self_attn.k_norm",
    "layers.{}.attention_output_norm": "model.layers.{0}.post_attention_layernorm",
    "layers.{}.mlp_output_norm": "model.layers.{0}.post_feedforward_layernorm",
}


_DEFAULTS: Mapping[str, Any] = {"vocab_size": 50304}


def read_olmo2(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    attentions = (olmo_attention(fields, theta=10000.0),) * num_layers(fields)
    return language_model("Olmo2ForCausalLM", fields, post_norm(fields, attentions))


def olmo_attention(fields: Fields, *, theta: float) -> AttentionSpec:
    """Attention whose queries and keys are normalised over all heads."""
    bias = fields.flag("attention_bias", False)
    plain = read_attention(fields, bias=bias, output_bias=bias, theta=theta)
    return replace(plain, qk_norm="projection", norm=_norm(fields))


def post_norm(fields: Fields, attentions: tuple[AttentionSpec, ...]) -> DecoderSpec:
    """A decoder with norms after the blocks only."""
    norms, mlp = Norms(None, _norm(fields)), read_mlp(fields)
    layers = tuple(LayerSpec(attention, mlp, norms, norms) for attention in attentions)
    return replace(stacked(fields, layers, tied_head=tied_head(fields)), norm=_norm(fields))


def _norm(fields: Fields) -> NormSpec:
    return NormSpec(fields.positive("rms_norm_eps", 1e-5))


OLMO2 = Recipe(read=read_olmo2, names=OLMO_NAMES)
