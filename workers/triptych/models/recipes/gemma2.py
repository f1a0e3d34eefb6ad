"""Gemma2ForCausalLM (arXiv:2408.00118), with the defaults of transformers' Gemma2Config."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import NAMES, language_model, read_attention, stacked, tied_head
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length
from triptych.models.recipes.windows import FULL, SLIDING, layer_types, windowed
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    Gate,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    Norms,
    NormSpec,
)

GEMMA_NAMES: Mapping[str, str | Place] = {
    **NAMES,
    "layers.{}.attention_output_norm": "model.layers.{0}.post_attention_layernorm",
    "layers.{}.mlp_norm": "model.layers.{0}.pre_feedforward_layernorm",
    "layers.{}.mlp_output_norm": "model.layers.{0}.post_feedforward_layernorm",
}

_ACTIVATIONS: Mapping[str, Gate] = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh", "gelu": "gelu"}


_DEFAULTS: Mapping[str, Any] = {"vocab_size": 256000, "hidden_size": 2304, "num_attention_heads": 8}


def read_gemma2(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: every other layer slides, scores and logits are capped."""
    fields = Fields(config, defaults=_DEFAULTS)
    fields.refuse("use_bidirectional_attention", False)
    attention = replace(gemma_attention(fields), softcap=fields.cap("attn_logit_softcapping", 50.0))
    count = fields.few("num_hidden_layers", 26)
    kinds = layer_types(fields, tuple(FULL if index % 2 else SLIDING for index in range(count)))
    attentions = windowed(attention, kinds, fields.optional_count("sliding_window", 4096))
    decoder = replace(sandwiched(fields, attentions), logit_softcap=fields.cap("final_logit_softcapping", 30.0))
    return language_model("Gemma2ForCausalLM", fields, decoder, context=context_length(fields, 8192))


def gemma_attention(fields: Fields) -> AttentionSpec:
    """Attention whose scores are scaled by a number of their own."""
    bias = fields.flag("attention_bias", False)
    plain = read_attention(fields, bias=bias, output_bias=bias, kv_heads=4, head_dim=256)
    return replace(plain, scale=fields.positive("query_pre_attn_scalar", 256.0) ** -0.5)


def sandwiched(fields: Fields, attentions: tuple[AttentionSpec, ...]) -> DecoderSpec:
    """A decoder with norms before and after each block, that multiply by 1 + w, and scaled embeddings."""
    activation = _ACTIVATIONS[fields.choice("hidden_activation", "gelu_pytorch_tanh", tuple(_ACTIVATIONS))]
    norm = NormSpec(fields.positive("rms_norm_eps", 1e-6), offset=1.0)
    mlp = MlpSpec(fields.count("intermediate_size", 9216), activation=activation)
    layers = tuple(LayerSpec(attention, mlp, Norms(norm, norm), Norms(norm, norm)) for attention in attentions)
    plain = stacked(fields, layers, tied_head=tied_head(fields, True))
    return replace(plain, norm=norm, embedding_scale=plain.hidden_size**0.5)


GEMMA2 = Recipe(read=read_gemma2, names=GEMMA_NAMES)
