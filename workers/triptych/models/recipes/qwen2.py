"""Qwen2ForCausalLM (arXiv:2407.10671; Qwen2.5 too), with the defaults of transformers' Qwen2Config."""

from collections.abc import Mapping
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
from triptych.models.recipes.windows import qwen_layer_types, windowed
from triptych.models.spec import DecoderSpec, ModelSpec

DEFAULTS: Mapping[str, Any] = {"vocab_size": 151936, "intermediate_size": 22016}


def read_qwen2(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=DEFAULTS)
    decoder = read_decoder(fields, tied_head=tied_head(fields))
    return language_model("Qwen2ForCausalLM", fields, decoder, context=context_length(fields, 32768))


def read_decoder(fields: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder: queries, keys and values have biases, the output projection has none."""
    kinds = qwen_layer_types(fields, num_layers(fields))
    attentions = windowed(
        read_attention(fields, bias=True, kv_heads=32), kinds, fields.optional_count("sliding_window", 4096)
    )
    mlp, norm = read_mlp(fields), read_norm(fields)
    return stacked(fields, tuple(pre_norm(a, mlp, norm) for a in attentions), tied_head=tied_head)


QWEN2 = Recipe(read=read_qwen2, names=NAMES)
