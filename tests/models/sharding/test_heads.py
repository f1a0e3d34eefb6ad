"""Which heads each rank has."""

import random

import pytest

from triptych.core.errors import InvalidArgument
from triptych.models.sharding import Interval, head_shards, kv_heads
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LatentAttentionSpec,
    LayerSpec,
    MlpSpec,
    Norms,
    NormSpec,
    RopeSpec,
)
from triptych.parallel import Parallelism

NORM = NormSpec(1e-5)
LATENT = LatentAttentionSpec(5, None, 32, 16, RopeSpec(1e4, 16), 16, 0.2, 1e-6)


def grouped(heads: int, kv: int) -> AttentionSpec:
    return AttentionSpec(heads, kv, 64, None, 0.125)


def test_nine_query_heads_on_three_kv_heads() -> None:
    two, four = (head_shards(grouped(9, 3), ranks) for ranks in (2, 4))
    assert [(shard.kv, shard.query) for shard in two] == [
        (Interval(0, 2), Interval(0, 6)),
        (Interval(2, 3), Interval(6, 9)),
    ]
    assert [(shard.kv, shard.query, shard.first) for shard in four] == [
        (Interval(0, 1), Interval(0, 2), True),
        (Interval(0, 1), Interval(2, 3), False),
        (Interval(1, 2), Interval(3, 6), True),
        (Interval(2, 3), Interval(6, 9), True),
    ]


def test_every_query_head_is_on_one_rank_together_with_its_kv_head() -> None:
    for _ in range(500):
        kv, group = random.randint(1, 8), random.randint(1, 8)
        ranks = random.randint(1, kv * group)
        shards = head_shards(grouped(kv * group, kv), ranks)
        assert [head for shard in shards for head in range(shard.query.start, shard.query.stop)] == list(
            range(kv * group)
        )
        counted = [head for shard in shards if shard.first for head in range(shard.kv.start, shard.kv.stop)]
        assert counted == list(range(kv))
        for shard in shards:
            assert shard.query.size % shard.kv.size == 0, "groups within a rank are equal"
            local = shard.query.size // shard.kv.size
            for place, head in enumerate(range(shard.query.start, shard.query.stop)):
                assert head // group == shard.kv.start + place // local


def test_latent_attention_divides_queries_and_has_its_latent_everywhere() -> None:
    shards = head_shards(LATENT, 3)
    assert [shard.query for shard in shards] == [Interval(0, 2), Interval(2, 4), Interval(4, 5)]
    assert {shard.kv for shard in shards} == {Interval(0, 1)}
    assert [shard.first for shard in shards] == [True, False, False]


@pytest.mark.parametrize("attention", [grouped(9, 3), LATENT])
def test_more_ranks_than_query_heads_are_refused(attention: AttentionSpec | LatentAttentionSpec) -> None:
    heads = attention.num_heads
    assert len(head_shards(attention, heads)) == heads
    with pytest.raises(
        InvalidArgument, match=rf"at most {heads} ranks .* {heads} query heads, got {heads + 1}"
    ) as info:
        head_shards(attention, heads + 1)
    assert info.value.field == "tensor_parallel"


def test_lanes_of_their_own_have_all_heads_each() -> None:
    layer = LayerSpec(grouped(9, 3), MlpSpec(64), Norms(NORM), Norms(NORM))
    spec = DecoderSpec(100, 576, (layer,), NORM, tied_head=True)
    assert kv_heads(spec, Parallelism(tensor=1, expert=4)) == (Interval(0, 3),)
    assert kv_heads(spec, Parallelism(tensor=2, expert=4)) == (Interval(0, 2), Interval(2, 3))
    assert len(kv_heads(spec, Parallelism(tensor=2, expert=4, attention="tensor"))) == 8
