"""The part of a model that one rank has, as a model of its own: caches and buffers are made by it. Pure."""

from dataclasses import replace
from typing import assert_never

from triptych.models.sharding.division import Division
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, LayerSpec, MlpSpec, MoeSpec
from triptych.parallel import Parallelism


def local_spec(spec: DecoderSpec, parallelism: Parallelism, rank: int, block: int = 1) -> DecoderSpec:
    """What one rank computes: its heads, its widths, its part of the vocabulary.

    The residual stream, the number of layers, and the number of experts that a router chooses from stay whole.

    Args:
        spec: Of the whole model.
        parallelism: How many ranks, in what grid.
        rank: Which of them.
        block: Elements of a row of a feed-forward block's last matrix that are packed together.

    Raises:
        InvalidArgument: a dimension is smaller than the number of ranks that divide it.
    """
    own = Division(parallelism, rank, block)
    layers = tuple(_layer(layer, own) for layer in spec.layers)
    return replace(spec, vocab_size=own.vocabulary(spec).size, layers=layers)


def _layer(spec: LayerSpec, own: Division) -> LayerSpec:
    return replace(spec, attention=_attention(spec.attention, own), mlp=_feed_forward(spec.mlp, own))


def _attention(spec: AttentionSpec | LatentAttentionSpec, own: Division) -> AttentionSpec | LatentAttentionSpec:
    shard = own.heads(spec)
    match spec:
        case AttentionSpec():
            return replace(spec, num_heads=shard.query.size, num_kv_heads=shard.kv.size)
        case LatentAttentionSpec():
            return replace(spec, num_heads=shard.query.size)
        case _:
            assert_never(spec)


def _feed_forward(spec: MlpSpec | MoeSpec, own: Division) -> MlpSpec | MoeSpec:
    match spec:
        case MlpSpec():
            return _dense(spec, own)
        case MoeSpec():
            shared = None if spec.shared is None else _dense(spec.shared, own)
            return replace(spec, intermediate_size=own.expert_width(spec.intermediate_size).size, shared=shared)
        case _:
            assert_never(spec)


def _dense(spec: MlpSpec, own: Division) -> MlpSpec:
    return replace(spec, intermediate_size=own.width(spec.intermediate_size).size)
