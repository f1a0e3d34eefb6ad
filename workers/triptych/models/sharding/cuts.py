"""What of every tensor one rank has, by our names (`triptych.models.layout`). Pure.

Projections into heads and inner widths are cut by rows, those back into the residual stream by columns: between the
two a rank needs nothing of the others, and behind the second their results are partial sums. A bias of the second is
added by one rank only. (Megatron-LM, arXiv:1909.08053.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from triptych.models.sharding.division import Division
from triptych.models.sharding.intervals import Interval
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, LayerSpec, MlpSpec, MoeSpec
from triptych.parallel import Parallelism


@dataclass(frozen=True, slots=True)
class Rows:
    """Some entries of the first dimension.

    Attributes:
        interval: Which.
        first: Whether no rank before this one has them, too.
    """

    interval: Interval
    first: bool = True


@dataclass(frozen=True, slots=True)
class Columns:
    """Some entries of the second."""

    interval: Interval


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing: another rank has it."""


Cut: TypeAlias = Rows | Columns | Absent
Cuts: TypeAlias = Mapping[str, Cut]
"""Tensors that are not in it are whole on every rank."""


def cuts(spec: DecoderSpec, parallelism: Parallelism, rank: int, block: int = 1) -> Cuts:
    """What one rank has of every tensor. The matrices of all experts are cut alike, whoever has them.

    Args:
        spec: Of the whole model.
        parallelism: How many ranks, in what grid.
        rank: Which of them.
        block: Elements of a row of a feed-forward block's last matrix that are packed together.

    Raises:
        InvalidArgument: a dimension is smaller than the number of ranks that divide it.
    """
    if parallelism.size == 1:
        return {}
    own = Division(parallelism, rank, block)
    rows = Rows(own.vocabulary(spec))
    found: dict[str, Cut] = {"embedding.weight": rows, "head.weight": rows}
    for index, layer in enumerate(spec.layers):
        found |= {f"layers.{index}.{name}": cut for name, cut in _layer(layer, own).items()}
    return found


def _layer(spec: LayerSpec, own: Division) -> dict[str, Cut]:
    attention = {f"attention.{name}": cut for name, cut in _attention(spec.attention, own).items()}
    return attention | {f"mlp.{name}": cut for name, cut in _feed_forward(spec.mlp, own).items()}


def _attention(spec: AttentionSpec | LatentAttentionSpec, own: Division) -> dict[str, Cut]:
    match spec:
        case AttentionSpec():
            return _grouped(spec, own)
        case LatentAttentionSpec():
            return _latent(spec, own)
        case _:
            assert_never(spec)


def _grouped(spec: AttentionSpec, own: Division) -> dict[str, Cut]:
    shard = own.heads(spec)
    queries, keys = shard.query.times(spec.head_dim), shard.kv.times(spec.head_dim)
    found = _into("query", queries) | _into("key", keys, first=shard.first) | _into("value", keys, first=shard.first)
    found |= _back("output", queries, keeps_bias=own.lane_rank == 0)
    if spec.qk_norm == "projection":
        found |= {"query_norm.weight": Rows(queries), "key_norm.weight": Rows(keys, shard.first)}
    return found | {"sinks.weight": Rows(shard.query)}


def _latent(spec: LatentAttentionSpec, own: Division) -> dict[str, Cut]:
    heads = own.heads(spec).query
    queries = "query" if spec.query_rank is None else "query_up"
    return (
        _into(queries, heads.times(spec.plain_dim + spec.rope.dimensions))
        | _into("kv_up", heads.times(spec.plain_dim + spec.value_dim))
        | _back("output", heads.times(spec.value_dim), keeps_bias=own.lane_rank == 0)
    )


def _feed_forward(spec: MlpSpec | MoeSpec, own: Division) -> dict[str, Cut]:
    match spec:
        case MlpSpec():
            return _gated("", own.width(spec.intermediate_size), keeps_bias=own.lane_rank == 0)
        case MoeSpec():
            return _mixture(spec, own)
        case _:
            assert_never(spec)


def _mixture(spec: MoeSpec, own: Division) -> dict[str, Cut]:
    width, found = own.expert_width(spec.intermediate_size), dict[str, Cut]()
    for expert in range(spec.num_experts):
        found |= _gated(f"experts.{expert}.", width, keeps_bias=own.row_rank == 0)
    if spec.shared is not None:
        found |= _gated("shared.", own.width(spec.shared.intermediate_size), keeps_bias=own.lane_rank == 0)
    return found


def _gated(prefix: str, width: Interval, *, keeps_bias: bool) -> dict[str, Cut]:
    inner = _into(f"{prefix}gate", width) | _into(f"{prefix}up", width)
    return inner | _back(f"{prefix}down", width, keeps_bias=keeps_bias)


def _into(name: str, interval: Interval, *, first: bool = True) -> dict[str, Cut]:
    """A projection whose outputs are divided."""
    rows = Rows(interval, first)
    return {f"{name}.weight": rows, f"{name}.bias": rows}


def _back(name: str, interval: Interval, *, keeps_bias: bool) -> dict[str, Cut]:
    """A projection whose inputs are divided."""
    weight: dict[str, Cut] = {f"{name}.weight": Columns(interval)}
    return weight if keeps_bias else weight | {f"{name}.bias": Absent()}
