"""Olmo3ForCausalLM (arXiv:2512.13961), with the defaults of transformers' Olmo3Config: OLMo 2 with windows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.models.recipes.fields import Fields
from triptych.models.recipes.llama import language_model, num_layers
from triptych.models.recipes.olmo2 import OLMO_NAMES, olmo_attention, post_norm
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import layer_rope
from triptych.models.recipes.windows import FULL, SLIDING, layer_types
from triptych.models.spec import AttentionSpec, ModelSpec

_THETA = 500000.0


_DEFAULTS: Mapping[str, Any] = {"vocab_size": 50304}


def read_olmo3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model: three layers slide, the fourth sees all; only that one is stretched."""
    fields = Fields(config, defaults=_DEFAULTS)
    kinds = tuple(SLIDING if (index + 1) % 4 else FULL for index in range(num_layers(fields)))
    attention = olmo_attention(fields, theta=_THETA)
    attentions = tuple(_of_kind(fields, attention, kind) for kind in layer_types(fields, kinds))
    return language_model("Olmo3ForCausalLM", fields, post_norm(fields, attentions))


def _of_kind(fields: Fields, attention: AttentionSpec, kind: str) -> AttentionSpec:
    window = (fields.optional_count("sliding_window", 4096) or 0) if kind == SLIDING else 0
    return replace(attention, rope=layer_rope(fields, attention.head_dim, kind, theta=_THETA), window=window)


OLMO3 = Recipe(read=read_olmo3, names=OLMO_NAMES)
