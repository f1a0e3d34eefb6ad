"""Gemma3ForCausalLM (arXiv:2503.19786), with the defaults of transformers' Gemma3TextConfig."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.gemma2 import GEMMA_NAMES, gemma_attention, sandwiched
from triptych.models.recipes.llama import language_model
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length, layer_rope
from triptych.models.recipes.windows import FULL, SLIDING, layer_types
from triptych.models.spec import AttentionSpec, DecoderSpec, ModelSpec, NormSpec

GEMMA3_NAMES: Mapping[str, str | Place] = {
    **GEMMA_NAMES,
    "layers.{}.attention.query_norm": "model.layers.{0}.self_attn.q_norm",
    "layers.{}.attention.key_norm": "model.layers.{0}.self_attn.k_norm",
}


DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262208, "hidden_size": 2304, "num_attention_heads": 8,
}  # fmt: skip


def read_gemma3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model without images."""
    fields = Fields(config, defaults=DEFAULTS)
    return language_model("Gemma3ForCausalLM", fields, read_decoder(fields), context=context_length(fields, 131072))


def read_decoder(fields: Fields) -> DecoderSpec:
    """The decoder: five layers slide, with a base of frequencies of their own, the sixth sees all."""
    fields.refuse("use_bidirectional_attention", False)
    count, pattern = fields.few("num_hidden_layers", 26), fields.count("sliding_window_pattern", 6)
    kinds = layer_types(fields, tuple(SLIDING if (index + 1) % pattern else FULL for index in range(count)))
    norm = NormSpec(fields.positive("rms_norm_eps", 1e-6), offset=1.0)
    attention = replace(
        gemma_attention(fields), qk_norm="head", norm=norm, softcap=fields.cap("attn_logit_softcapping", None)
    )
    decoder = sandwiched(fields, tuple(_of_kind(fields, attention, kind) for kind in kinds))
    return replace(decoder, logit_softcap=fields.cap("final_logit_softcapping", None))


def _of_kind(fields: Fields, attention: AttentionSpec, kind: str) -> AttentionSpec:
    if kind == FULL:
        return replace(attention, rope=layer_rope(fields, attention.head_dim, FULL, theta=1e6))
    local = layer_rope(fields, attention.head_dim, SLIDING, theta=fields.positive("rope_local_base_freq", 1e4))
    return replace(attention, rope=local, window=fields.optional_count("sliding_window", 4096) or 0)


GEMMA3 = Recipe(read=read_gemma3, names=GEMMA3_NAMES)
