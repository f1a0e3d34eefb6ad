"""Qwen3ForCausalLM (arXiv:2505.09388), with the defaults of transformers' Qwen3Config."""

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
from triptych.models.recipes.windows import qwen_layer_types, windowed
from triptych.models.spec import AttentionSpec, DecoderSpec, ModelSpec

QWEN3_NAMES: Mapping[str, str | Place] = {
    **NAMES,
    "layers.{}.attention.query_norm": "model.layers.{0}.self_attn.q_norm",
    "layers.{}.attention.key_norm": "model.layers.{0}.self_attn.k_norm",
}


_DEFAULTS: Mapping[str, Any] = {"vocab_size": 151936, "intermediate_size": 22016}


def read_qwen3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    decoder = read_decoder(fields, tied_head=tied_head(fields))
    return language_model("Qwen3ForCausalLM", fields, decoder, context=context_length(fields, 32768))


def read_decoder(fields: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder: queries and keys are normalised by head."""
    mlp, norm = read_mlp(fields), read_norm(fields)
    attentions = read_attentions(fields, kv_heads=32)
    return stacked(fields, tuple(pre_norm(a, mlp, norm) for a in attentions), tied_head=tied_head)


def read_attentions(fields: Fields, *, kv_heads: int) -> tuple[AttentionSpec, ...]:
    """The attention of each layer."""
    bias = fields.flag("attention_bias", False)
    plain = read_attention(fields, bias=bias, output_bias=bias, kv_heads=kv_heads, head_dim=128)
    normed = replace(plain, qk_norm="head", norm=read_norm(fields))
    kinds = qwen_layer_types(fields, num_layers(fields))
    return windowed(normed, kinds, fields.optional_count("sliding_window", 4096))


QWEN3 = Recipe(read=read_qwen3, names=QWEN3_NAMES)
