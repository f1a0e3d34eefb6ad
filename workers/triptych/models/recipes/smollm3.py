"""SmolLM3ForCausalLM, with the defaults of transformers' SmolLM3Config: Llama, some layers without positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from triptych.core.errors import InvalidArgument
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
from triptych.models.recipes.windows import FULL, SLIDING, layer_types, windowed
from triptych.models.spec import DecoderSpec, ModelSpec

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
}


def read_smollm3(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model."""
    fields = Fields(config, defaults=_DEFAULTS)
    decoder = _decoder(fields)
    return language_model("SmolLM3ForCausalLM", fields, decoder, context=context_length(fields, 32768))


def _decoder(fields: Fields) -> DecoderSpec:
    bias = fields.flag("attention_bias", False)
    attention = read_attention(fields, bias=bias, output_bias=bias, kv_heads=4, theta=2e6)
    mlp, norm = read_mlp(fields, bias=fields.flag("mlp_bias", False)), read_norm(fields)
    turned, window = _turned_layers(fields), fields.optional_count("sliding_window", None)
    slides = fields.flag("use_sliding_window", False) and window is not None
    kinds = layer_types(fields, tuple(SLIDING if slides and not turns else FULL for turns in turned))
    layers = tuple(
        pre_norm(spec if turns else replace(spec, rope=None), mlp, norm)
        for spec, turns in zip(windowed(attention, kinds, window), turned, strict=True)
    )
    return stacked(fields, layers, tied_head=tied_head(fields, True))


def _turned_layers(fields: Fields) -> tuple[bool, ...]:
    """Which layers know positions: `no_rope_layers` has a 1 for those, whatever its name says."""
    count, interval = num_layers(fields), fields.count("no_rope_layer_interval", 4)
    flags = fields.integers("no_rope_layers", tuple(int((index + 1) % interval != 0) for index in range(count)))
    if len(flags) != count:
        raise InvalidArgument(
            f"config: no_rope_layers must name {count} layers, got {len(flags)}", field="no_rope_layers"
        )
    return tuple(map(bool, flags))


SMOLLM3 = Recipe(read=read_smollm3, names=NAMES)
