"""MistralForCausalLM (arXiv:2310.06825), with the defaults of transformers' MistralConfig: Llama with a window."""

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
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.spec import DecoderSpec, ModelSpec

DEFAULTS: Mapping[str, Any] = {"intermediate_size": 14336}


def read_mistral(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=DEFAULTS)
    decoder = read_decoder(fields, tied_head=tied_head(fields))
    return language_model("MistralForCausalLM", fields, decoder, context=context_length(fields, 131072))


def read_decoder(fields: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder: every layer sees the window."""
    attention = replace(read_attention(fields, kv_heads=8), window=fields.optional_count("sliding_window", 4096) or 0)
    layer = pre_norm(attention, read_mlp(fields), read_norm(fields))
    return stacked(fields, (layer,) * num_layers(fields), tied_head=tied_head)


MISTRAL = Recipe(read=read_mistral, names=NAMES)
