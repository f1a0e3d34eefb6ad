"""Which attention heads each rank has. Pure: plans of transfers between unequal groups are made of it too."""

from dataclasses import dataclass
from typing import assert_never

from triptych.core.errors import InvalidArgument
from triptych.models.sharding.intervals import Interval, intervals
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec
from triptych.parallel import Parallelism


@dataclass(frozen=True, slots=True)
class HeadShard:
    """The heads of one rank. Each of its KV heads has equally many of its query heads.

    Attributes:
        query: Query heads.
        kv: Heads of keys and values; the one latent of latent attention.
        first: Whether no rank before it has these KV heads: the others are copies.
    """

    query: Interval
    kv: Interval
    first: bool


def head_shards(attention: AttentionSpec | LatentAttentionSpec, parts: int) -> tuple[HeadShard, ...]:
    """Deals the heads of a layer out to ranks, in their order.

    KV heads stay with all their query heads while there are enough for all ranks. With more ranks than KV heads, each
    is held by several ranks, which divide its query heads.

    Raises:
        InvalidArgument: there are more ranks than query heads.
    """
    if parts > attention.num_heads:
        raise InvalidArgument(
            f"at most {attention.num_heads} ranks can divide attention with {attention.num_heads} query heads, "
            f"got {parts}; lower tensor_parallel",
            field="tensor_parallel",
        )
    match attention:
        case AttentionSpec(num_heads=heads, num_kv_heads=kv_heads):
            return _grouped(heads // kv_heads, kv_heads, parts)
        case LatentAttentionSpec(num_heads=heads):
            latent = Interval(0, 1)
            return tuple(HeadShard(query, latent, query.start == 0) for query in intervals(heads, parts))
        case _:
            assert_never(attention)


def kv_heads(spec: DecoderSpec, parallelism: Parallelism) -> tuple[Interval, ...]:
    """The KV heads in the pools of the ranks of a lane, in their order; the same in all layers.

    Raises:
        InvalidArgument: there are more ranks than query heads.
    """
    return tuple(shard.kv for shard in head_shards(spec.layers[0].attention, parallelism.attention_size))


def _grouped(group: int, kv_heads: int, parts: int) -> tuple[HeadShard, ...]:
    if parts <= kv_heads:
        return tuple(HeadShard(kv.times(group), kv, first=True) for kv in intervals(kv_heads, parts))
    shards = []
    for head, ranks in enumerate(intervals(parts, kv_heads)):
        for query in intervals(group, ranks.size):
            start = head * group
            own = Interval(start + query.start, start + query.stop)
            shards.append(HeadShard(own, Interval(head, head + 1), first=query.start == 0))
    return tuple(shards)
