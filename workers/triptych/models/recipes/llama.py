"""LlamaForCausalLM (arXiv:2302.13971), with the defaults of transformers' LlamaConfig."""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.recipe import Recipe
from triptych.models.spec import AttentionSpec, DecoderSpec, LayerSpec, Llama3Scaling, MlpSpec, ModelSpec, RopeSpec


def read_llama(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model without images."""
    fields = Fields(config)
    return ModelSpec(
        architecture="LlamaForCausalLM",
        decoder=read_decoder(fields, tied_head=fields.flag("tie_word_embeddings", False)),
        vision=None,
        image_token_id=None,
        eos_token_ids=fields.token_ids("eos_token_id"),
        context_length=context_length(fields),
    )


def context_length(fields: Fields) -> int:
    """The longest sequence that the positions were trained for."""
    return fields.count("max_position_embeddings", 2048)


def read_decoder(fields: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder that a Llama config describes."""
    fields.refuse("quantization_config", None)
    fields.choice("hidden_act", "silu", ("silu",))
    hidden_size = fields.count("hidden_size", 4096)
    norm_eps = fields.positive("rms_norm_eps", 1e-6)
    layer = LayerSpec(
        attention=_attention(fields, hidden_size),
        mlp=MlpSpec(fields.count("intermediate_size", 11008), fields.flag("mlp_bias", False)),
        norm_eps=norm_eps,
    )
    return DecoderSpec(
        vocab_size=fields.count("vocab_size", 32000),
        hidden_size=hidden_size,
        layers=(layer,) * fields.count("num_hidden_layers", 32),
        norm_eps=norm_eps,
        tied_head=tied_head,
    )


def _attention(fields: Fields, hidden_size: int) -> AttentionSpec:
    num_heads = fields.count("num_attention_heads", 32)
    num_kv_heads = fields.count("num_key_value_heads", num_heads)
    head_dim = fields.count("head_dim", hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise InvalidArgument(
            f"config: num_attention_heads must be a multiple of {num_kv_heads} key/value heads, got {num_heads}",
            field="num_attention_heads",
        )
    if head_dim % 2:
        raise InvalidArgument(f"config: head_dim must be even, got {head_dim}", field="head_dim")
    return AttentionSpec(num_heads, num_kv_heads, head_dim, _rope(fields), fields.flag("attention_bias", False))


def _rope(fields: Fields) -> RopeSpec:
    """Reads `rope_parameters`, or `rope_scaling` and `rope_theta` as configs before transformers 5 have them."""
    rope = fields.section("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    for section in (fields, rope):
        section.refuse("partial_rotary_factor", 1.0)
    theta = (rope if rope.has("rope_theta") else fields).positive("rope_theta", 10000.0)
    kind = rope.choice("rope_type" if rope.has("rope_type") else "type", "default", ("default", "llama3"))
    return RopeSpec(theta, _llama3(rope, context_length(fields)) if kind == "llama3" else None)


def _llama3(rope: Fields, context: int) -> Llama3Scaling:
    low, high = rope.positive("low_freq_factor", None), rope.positive("high_freq_factor", None)
    if high <= low:
        raise InvalidArgument(
            f"config: high_freq_factor must be above low_freq_factor {low:g}, got {high:g}",
            field="high_freq_factor",
        )
    return Llama3Scaling(
        factor=rope.positive("factor", None),
        low_frequency=low,
        high_frequency=high,
        original_context=rope.count("original_max_position_embeddings", context),
    )


LLAMA = Recipe(read=read_llama, prefixes={"model.": ("model.",), "lm_head.": ("lm_head.",)})
