"""How large a decoder is, counted from its spec alone. No torch."""

from math import prod
from typing import assert_never

from triptych.models.layout import decoder_tensors
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, MoeSpec


def parameters(spec: DecoderSpec) -> int:
    """Elements of all tensors."""
    return sum(map(prod, decoder_tensors(spec).values()))


def step_parameters(spec: DecoderSpec) -> float:
    """Elements that a step of one row reads: the layers, of experts those it uses, and the head."""
    used = 0.0
    for name, shape in decoder_tensors(spec).items():
        if name != "embedding.weight" or spec.tied_head:
            used += prod(shape) * (_share_used(spec, name) if ".mlp.experts." in name else 1)
    return used


def linear_parameters(spec: DecoderSpec) -> float:
    """Elements of the matrices that one row is multiplied by, the head aside."""
    matrices = 0.0
    for name, shape in decoder_tensors(spec).items():
        if name.startswith("layers.") and len(shape) == 2:
            matrices += prod(shape) * (_share_used(spec, name) if ".mlp.experts." in name else 1)
    return matrices


def kv_elements(spec: DecoderSpec) -> int:
    """What the cache keeps of one token, all layers."""
    total = 0
    for layer in spec.layers:
        match layer.attention:
            case AttentionSpec(num_kv_heads=heads, head_dim=width):
                total += 2 * heads * width
            case LatentAttentionSpec(latent_dim=latent, rope=rope):
                total += latent + rope.dimensions
            case _:
                assert_never(layer.attention)
    return total


def attention_operations(spec: DecoderSpec) -> int:
    """Multiplications and additions of one row with one position that it sees, all layers."""
    total = 0
    for layer in spec.layers:
        match layer.attention:
            case AttentionSpec(num_heads=heads, head_dim=width):
                total += 4 * heads * width
            case LatentAttentionSpec(num_heads=heads, latent_dim=latent, rope=rope):
                total += 2 * heads * (2 * latent + rope.dimensions)
            case _:
                assert_never(layer.attention)
    return total


def expert_share(spec: DecoderSpec) -> float:
    """Of the experts of a layer a row uses so many, on average over the layers that have any; 0 without."""
    shares = [layer.mlp.top_k / layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    return sum(shares) / len(shares) if shares else 0.0


def _share_used(spec: DecoderSpec, name: str) -> float:
    mlp = spec.layers[int(name.split(".")[1])].mlp
    assert isinstance(mlp, MoeSpec)
    return mlp.top_k / mlp.num_experts
