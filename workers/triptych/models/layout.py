"""Every tensor that a decoder is made of, by our names. No torch.

What a checkpoint calls them, and how it packs them, is the recipe's business (`triptych.models.recipes`).
"""

from collections.abc import Mapping
from typing import assert_never

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

Shapes = Mapping[str, tuple[int, ...]]


def decoder_tensors(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name."""
    table = (spec.vocab_size, spec.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": table, "norm.weight": (spec.hidden_size,)}
    if not spec.tied_head:
        shapes["head.weight"] = table
    for index, layer in enumerate(spec.layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in _layer(layer, spec.hidden_size).items()}
    return shapes


def _layer(spec: LayerSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    norms = {
        "attention_norm": spec.attention_norms.before,
        "attention_output_norm": spec.attention_norms.after,
        "mlp_norm": spec.mlp_norms.before,
        "mlp_output_norm": spec.mlp_norms.after,
    }
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (hidden,) for name, norm in norms.items() if norm}
    shapes |= {f"attention.{name}": shape for name, shape in _attention(spec.attention, hidden).items()}
    shapes |= {f"mlp.{name}": shape for name, shape in _feed_forward(spec.mlp, hidden).items()}
    return shapes


def _attention(spec: AttentionSpec | LatentAttentionSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    match spec:
        case AttentionSpec():
            return _grouped(spec, hidden)
        case LatentAttentionSpec():
            return _latent(spec, hidden)
        case _:
            assert_never(spec)


def _grouped(spec: AttentionSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = (
        _linear("query", queries, hidden, bias=spec.bias)
        | _linear("key", keys, hidden, bias=spec.bias)
        | _linear("value", keys, hidden, bias=spec.bias)
        | _linear("output", hidden, queries, bias=spec.output_bias)
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


def _latent(spec: LatentAttentionSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    queries = spec.num_heads * (spec.plain_dim + spec.rope.dimensions)
    if spec.query_rank is None:
        shapes = _linear("query", queries, hidden, bias=False)
    else:
        shapes = _linear("query_down", spec.query_rank, hidden, bias=spec.bias)
        shapes |= {"query_down_norm.weight": (spec.query_rank,)}
        shapes |= _linear("query_up", queries, spec.query_rank, bias=False)
    latent = spec.latent_dim
    return (
        shapes
        | _linear("kv_down", latent + spec.rope.dimensions, hidden, bias=spec.bias)
        | {"kv_down_norm.weight": (latent,)}
        | _linear("kv_up", spec.num_heads * (spec.plain_dim + spec.value_dim), latent, bias=False)
        | _linear("output", hidden, spec.num_heads * spec.value_dim, bias=spec.bias)
    )


def _feed_forward(spec: MlpSpec | MoeSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    match spec:
        case MlpSpec():
            return _gated("", spec.intermediate_size, hidden, bias=spec.bias)
        case MoeSpec():
            return _mixture(spec, hidden)
        case _:
            assert_never(spec)


def _mixture(spec: MoeSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    match spec.router:
        case SoftmaxRouter(bias=bias):
            shapes = _linear("router", spec.num_experts, hidden, bias=bias)
        case SigmoidRouter():
            shapes = _linear("router", spec.num_experts, hidden, bias=False)
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


def _gated(prefix: str, inner: int, hidden: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    return (
        _linear(f"{prefix}gate", inner, hidden, bias=bias)
        | _linear(f"{prefix}up", inner, hidden, bias=bias)
        | _linear(f"{prefix}down", hidden, inner, bias=bias)
    )


def _linear(name: str, outputs: int, inputs: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight
