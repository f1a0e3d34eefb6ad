"""What each rank has of every tensor, for all that a layer can be made of."""

from collections.abc import Iterator

import pytest

from triptych.core.errors import InvalidArgument
from triptych.models.layout import decoder_tensors
from triptych.models.sharding import Absent, Columns, Cut, Interval, Rows, cuts, local_spec
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LatentAttentionSpec,
    LayerSpec,
    MlpSpec,
    MoeSpec,
    Norms,
    NormSpec,
    RopeSpec,
    SigmoidRouter,
    SoftmaxRouter,
)
from triptych.parallel import AttentionParallelism, Parallelism

NORM, ROPE = NormSpec(1e-5), RopeSpec(1e4, 16)
GROUPED = AttentionSpec(12, 3, 16, ROPE, 0.25, bias=True, output_bias=True, sinks=True)
WHOLE_NORMS = AttentionSpec(12, 3, 16, ROPE, 0.25, qk_norm="projection")
HEAD_NORMS = AttentionSpec(12, 12, 16, None, 0.25, qk_norm="head")
LATENT = LatentAttentionSpec(10, 24, 32, 16, ROPE, 20, 0.2, 1e-6, bias=True)
PLAIN_LATENT = LatentAttentionSpec(10, None, 32, 16, ROPE, 20, 0.2, 1e-6)
DENSE = MlpSpec(72, bias=True)
MIXTURE = MoeSpec(
    5, 2, 40, SoftmaxRouter(True, bias=True), bias=True, shared=MlpSpec(48, bias=True), shared_gate=True
)
GROUPS = MoeSpec(4, 2, 24, SigmoidRouter(2, 1, True, 1.5))


def layer(attention: AttentionSpec | LatentAttentionSpec, mlp: MlpSpec | MoeSpec) -> LayerSpec:
    return LayerSpec(attention, mlp, Norms(NORM, NORM), Norms(None, NORM))


LAYERS = (
    layer(GROUPED, DENSE),
    layer(WHOLE_NORMS, MIXTURE),
    layer(HEAD_NORMS, GROUPS),
    layer(LATENT, MIXTURE),
    layer(PLAIN_LATENT, DENSE),
)
SPEC = DecoderSpec(203, 96, LAYERS, NORM, tied_head=False)
GRIDS = [
    Parallelism(tensor=2),
    Parallelism(tensor=4),
    Parallelism(tensor=8),
    Parallelism(expert=4),
    Parallelism(2, 2),
    Parallelism(2, 2, "tensor"),
    Parallelism(1, 4, "tensor"),
    Parallelism(4, 2, "tensor"),
]

Shape = tuple[int, ...]


def shape_of(shape: Shape, cut: Cut | None) -> Shape | None:
    match cut:
        case None:
            return shape
        case Rows(interval):
            return (interval.size, *shape[1:])
        case Columns(interval):
            return (shape[0], interval.size)
        case Absent():
            return None


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_rank_has_the_tensors_of_its_own_spec(grid: Parallelism) -> None:
    whole = decoder_tensors(SPEC)
    for rank in range(grid.size):
        local, own = decoder_tensors(local_spec(SPEC, grid, rank)), cuts(SPEC, grid, rank)
        assert local.keys() == whole.keys()
        for name, shape in whole.items():
            assert shape_of(shape, own.get(name)) in (local[name], None), name


def dimension(shape: Shape, cut: Cut) -> tuple[Interval, int, bool] | None:
    match cut:
        case Rows(interval, first):
            return interval, shape[0], first
        case Columns(interval):
            return interval, shape[1], True
        case Absent():
            return None


def holders(grid: Parallelism, name: str) -> Iterator[tuple[int, ...]]:
    """The groups of ranks that have a tensor together."""
    ranks = grid.tensor_ranks if ".experts." in name else grid.attention_ranks
    yield from {ranks(rank) for rank in range(grid.size)}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_ranks_have_every_part_once_together(grid: Parallelism) -> None:
    own = [cuts(SPEC, grid, rank) for rank in range(grid.size)]
    for name, shape in decoder_tensors(SPEC).items():
        for ranks in holders(grid, name):
            parts = [dimension(shape, own[rank][name]) for rank in ranks if name in own[rank]]
            if name.endswith((".output.bias", ".down.bias")):
                assert [part is None for part in parts] == [True] * (len(ranks) - 1), "one rank adds it"
                continue
            counted = [part[0] for part in parts if part and part[2]]
            numbers = [number for part in counted for number in range(part.start, part.stop)]
            assert not parts or numbers == list(range(parts[0][1])), name  # type: ignore[index]


def test_what_every_token_needs_of_everybody_stays_whole() -> None:
    own = cuts(SPEC, Parallelism(tensor=4), 1)
    kept = {name.split(".", 2)[-1] for name in decoder_tensors(SPEC) if name not in own}
    assert {name for name in kept if "norm" not in name and name != "weight"} == {
        "attention.kv_down.weight", "attention.kv_down.bias", "attention.query_down.weight",
        "attention.query_down.bias", "mlp.router.weight", "mlp.router.bias", "mlp.correction.weight",
        "mlp.shared_gate.weight",
    }  # fmt: skip


def test_one_rank_has_the_model_as_it_is() -> None:
    assert local_spec(SPEC, Parallelism(), 0) == SPEC
    assert not cuts(SPEC, Parallelism(), 0)


def test_columns_are_cut_at_blocks() -> None:
    spec = DecoderSpec(512, 96, (layer(GROUPED, MlpSpec(1536)),), NORM, tied_head=True)
    widths = [local_spec(spec, Parallelism(tensor=4), rank, block=256).layers[0].mlp for rank in range(4)]
    assert widths == [MlpSpec(512), MlpSpec(512), MlpSpec(256), MlpSpec(256)]
    assert cuts(spec, Parallelism(tensor=4), 2, block=256)["layers.0.mlp.down.weight"] == Columns(
        Interval(1024, 1280)
    )


@pytest.mark.parametrize("attention", ["data", "tensor"])
def test_a_width_narrower_than_the_ranks_is_refused(attention: AttentionParallelism) -> None:
    spec = DecoderSpec(3, 96, (layer(GROUPED, MlpSpec(64)),), NORM, tied_head=True)
    with pytest.raises(
        InvalidArgument, match="at most 3 ranks can divide vocab_size 3, got 4; lower tensor_parallel"
    ):
        cuts(spec, Parallelism(4, 1, attention), 0)
