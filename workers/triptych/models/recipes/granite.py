"""GraniteForCausalLM (arXiv:2405.04324), with the defaults of transformers' GraniteConfig: Llama with multipliers."""

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
from triptych.models.spec import DecoderSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec


def read_granite(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config)
    mlp = read_mlp(fields, bias=fields.flag("mlp_bias", False))
    return language_model("GraniteForCausalLM", fields, multiplied(fields, mlp))


def multiplied(fields: Fields, mlp: MlpSpec | MoeSpec) -> DecoderSpec:
    """A decoder whose embeddings, scores, residuals and logits have factors of their own."""
    bias = fields.flag("attention_bias", False)
    attention = replace(
        read_attention(fields, bias=bias, output_bias=bias), scale=fields.positive("attention_multiplier", 1.0)
    )
    layer: LayerSpec = replace(
        pre_norm(attention, mlp, read_norm(fields)), residual_scale=fields.positive("residual_multiplier", 1.0)
    )
    return replace(
        stacked(fields, (layer,) * num_layers(fields), tied_head=tied_head(fields)),
        embedding_scale=fields.positive("embedding_multiplier", 1.0),
        logit_scale=1 / fields.positive("logits_scaling", 1.0),
    )


GRANITE = Recipe(read=read_granite, names=NAMES)
