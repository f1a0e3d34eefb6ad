"""Every tensor that a decoder is made of, by our names. No torch.

What a checkpoint calls them, and how it packs them, is the recipe's business (`triptych.models.recipes`).
"""

from typing import assert_never

from triptych.models.shapes import Shapes, linear
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LatentAttentionSpec,
    LayerSpec,
    MlpSpec,
    MoeSpec,
    SigmoidRouter,
    SoftmaxRouter,
)


def decoder_tensors(spec: DecoderSpec) -> Shapes:
    """The shape of every tensor, by name."""
    table = (spec.vocab_size, spec.hidden_size)
    shapes: Shapes = {"embedding.weight": table, "norm.weight": (spec.hidden_size,)}
    if not spec.tied_head:
        shapes["head.weight"] = table
    for index, layer in enumerate(spec.layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in _layer(layer, spec.hidden_size).items()}
    return shapes


def _layer(spec: LayerSpec, hidden: int) -> Shapes:
    norms = {
        "attention_norm": spec.attention_norms.before,
        "attention_output_norm": spec.attention_norms.after,
        "mlp_norm": spec.mlp_norms.before,
        "mlp_output_norm": spec.mlp_norms.after,
    }
    shapes: Shapes = {f"{name}.weight": (hidden,) for name, norm in norms.items() if norm}
    shapes |= {f"attention.{name}": shape for name, shape in _attention(spec.attention, hidden).items()}
    shapes |= {f"mlp.{name}": shape for name, shape in _feed_forward(spec.mlp, hidden).items()}
    return shapes


def _attention(spec: AttentionSpec | LatentAttentionSpec, hidden: int) -> Shapes:
    match spec:
        case AttentionSpec():
            return _grouped(spec, hidden)
        case LatentAttentionSpec():
            return _latent(spec, hidden)
        case _:
            assert_never(spec)


def _grouped(spec: AttentionSpec, hidden: int) -> Shapes:
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = (
        linear("query", queries, hidden, bias=spec.bias)
        | linear("key", keys, hidden, bias=spec.bias)
        | linear("value", keys, hidden, bias=spec.bias)
        | linear("output", hidden, queries, bias=spec.output_bias)
    )
    match spec.qk_norm:
        case "head":
            shapes |= {"query_norm.weight": (spec.head_dim,), "key_norm.weight": (spec.head_dim,)}
        case "projection":
            shapes |= {"query_norm.weight": (queries,), "key_norm.weight": (keys,)}
        case "none":
            pass
    if spec.sinks:
        shapes["sinks.weight"] = (spec.num_heads,)
    return shapes


def _latent(spec: LatentAttentionSpec, hidden: int) -> Shapes:
    queries = spec.num_heads * (spec.plain_dim + spec.rope.dimensions)
    if spec.query_rank is None:
        shapes = linear("query", queries, hidden, bias=False)
    else:
        shapes = linear("query_down", spec.query_rank, hidden, bias=spec.bias)
        shapes |= {"query_down_norm.weight": (spec.query_rank,)}
        shapes |= linear("query_up", queries, spec.query_rank, bias=False)
    latent = spec.latent_dim
    return (
        shapes
        | linear("kv_down", latent + spec.rope.dimensions, hidden, bias=spec.bias)
        | {"kv_down_norm.weight": (latent,)}
        | linear("kv_up", spec.num_heads * (spec.plain_dim + spec.value_dim), latent, bias=False)
        | linear("output", hidden, spec.num_heads * spec.value_dim, bias=spec.bias)
    )


def _feed_forward(spec: MlpSpec | MoeSpec, hidden: int) -> Shapes:
    match spec:
        case MlpSpec():
            return _gated("", spec.intermediate_size, hidden, bias=spec.bias)
        case MoeSpec():
            return _mixture(spec, hidden)
        case _:
            assert_never(spec)


def _mixture(spec: MoeSpec, hidden: int) -> Shapes:
    match spec.router:
        case SoftmaxRouter(bias=bias):
            shapes = linear("router", spec.num_experts, hidden, bias=bias)
        case SigmoidRouter():
            shapes = linear("router", spec.num_experts, hidden, bias=False)
            shapes["correction.weight"] = (spec.num_experts,)
        case _:
            assert_never(spec.router)
    for expert in range(spec.num_experts):
        shapes |= _gated(f"experts.{expert}.", spec.intermediate_size, hidden, bias=spec.bias)
    if spec.shared is not None:
        shapes |= _gated("shared.", spec.shared.intermediate_size, hidden, bias=spec.shared.bias)
    if spec.shared_gate:
        shapes["shared_gate.weight"] = (1, hidden)
    return shapes


def _gated(prefix: str, inner: int, hidden: int, *, bias: bool) -> Shapes:
    return (
        linear(f"{prefix}gate", inner, hidden, bias=bias)
        | linear(f"{prefix}up", inner, hidden, bias=bias)
        | linear(f"{prefix}down", hidden, inner, bias=bias)
    )
