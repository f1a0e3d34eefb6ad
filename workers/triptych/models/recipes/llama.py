"""LlamaForCausalLM (arXiv:2302.13971), with the defaults of transformers' LlamaConfig; the base of many others."""

from collections.abc import Mapping
from typing import Any

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.place import Place
from triptych.models.recipes.recipe import Recipe
from triptych.models.recipes.rope import context_length, read_rope
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LatentAttentionSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    MoeSpec,
    Norms,
    NormSpec,
)

NAMES: Mapping[str, str | Place] = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers.{}.attention_norm": "model.layers.{0}.input_layernorm",
    "layers.{}.attention.query": "model.layers.{0}.self_attn.q_proj",
    "layers.{}.attention.key": "model.layers.{0}.self_attn.k_proj",
    "layers.{}.attention.value": "model.layers.{0}.self_attn.v_proj",
    "layers.{}.attention.output": "model.layers.{0}.self_attn.o_proj",
    "layers.{}.mlp_norm": "model.layers.{0}.post_attention_layernorm",
    "layers.{}.mlp.gate": "model.layers.{0}.mlp.gate_proj",
    "layers.{}.mlp.up": "model.layers.{0}.mlp.up_proj",
    "layers.{}.mlp.down": "model.layers.{0}.mlp.down_proj",
}


def read_llama(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a language model without images."""
    fields = Fields(config)
    return language_model("LlamaForCausalLM", fields, read_decoder(fields, tied_head=tied_head(fields)))


def language_model(
    architecture: str, fields: Fields, decoder: DecoderSpec, *, context: int | None = None
) -> ModelSpec:
    """The spec of a language model without images."""
    return ModelSpec(
        architecture=architecture,
        decoder=decoder,
        vision=None,
        image_token_id=None,
        eos_token_ids=fields.token_ids("eos_token_id"),
        context_length=context_length(fields) if context is None else context,
    )


def tied_head(fields: Fields, default: bool = False) -> bool:
    """Whether the head is the embedding."""
    return fields.flag("tie_word_embeddings", default)


def read_decoder(fields: Fields, *, tied_head: bool) -> DecoderSpec:
    """The decoder that a Llama config describes."""
    bias = fields.flag("attention_bias", False)
    mlp = read_mlp(fields, bias=fields.flag("mlp_bias", False))
    layer = pre_norm(read_attention(fields, bias=bias, output_bias=bias), mlp, read_norm(fields))
    return stacked(fields, (layer,) * num_layers(fields), tied_head=tied_head)


def read_mlp(fields: Fields, *, bias: bool = False) -> MlpSpec:
    """A feed-forward block gated by silu."""
    fields.choice("hidden_act", "silu", ("silu",))
    return MlpSpec(fields.count("intermediate_size", 11008), bias=bias)


def read_norm(fields: Fields) -> NormSpec:
    """The norm of all places."""
    return NormSpec(fields.positive("rms_norm_eps", 1e-6))


def num_layers(fields: Fields) -> int:
    """Layers of the decoder."""
    return fields.few("num_hidden_layers", 32)


def pre_norm(attention: AttentionSpec | LatentAttentionSpec, mlp: MlpSpec | MoeSpec, norm: NormSpec) -> LayerSpec:
    """A layer with a norm before each block."""
    return LayerSpec(attention, mlp, Norms(norm), Norms(norm))


def stacked(fields: Fields, layers: tuple[LayerSpec, ...], *, tied_head: bool) -> DecoderSpec:
    """A decoder of these layers."""
    return DecoderSpec(
        vocab_size=fields.count("vocab_size", 32000),
        hidden_size=fields.count("hidden_size", 4096),
        layers=layers,
        norm=read_norm(fields),
        tied_head=tied_head,
    )


def read_attention(
    fields: Fields,
    *,
    bias: bool = False,
    output_bias: bool = False,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    theta: float = 10000.0,
) -> AttentionSpec:
    """Grouped-query attention with rotary positions.

    Args:
        fields: The config.
        bias: On the projections of queries, keys and values.
        output_bias: On the output projection.
        kv_heads: Key and value heads of a config that leaves them out; None means as many as query heads.
        head_dim: Width of a head of a config that leaves it out; None means that the heads share the hidden size.
        theta: Base of the frequencies of a config that leaves it out.
    """
    hidden_size, num_heads = fields.count("hidden_size", 4096), fields.count("num_attention_heads", 32)
    num_kv_heads = fields.count("num_key_value_heads", kv_heads or num_heads)
    head_dim = fields.count("head_dim", head_dim or hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise InvalidArgument(
            f"config: num_attention_heads must be a multiple of {num_kv_heads} key/value heads, got {num_heads}",
            field="num_attention_heads",
        )
    if head_dim % 2:
        raise InvalidArgument(f"config: head_dim must be even, got {head_dim}", field="head_dim")
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=read_rope(fields, head_dim, theta=theta),
        scale=head_dim**-0.5,
        bias=bias,
        output_bias=output_bias,
    )


LLAMA = Recipe(read=read_llama, names=NAMES)
