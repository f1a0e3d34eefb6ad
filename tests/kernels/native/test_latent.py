"""Latent attention: each kernel against the definition in float64, and what must stay untouched."""

import pytest
import torch
from torch import Tensor

from triptych.kernels import AttentionBatch, absorb_query, expand_value, latent_attention, store_latent
from triptych.kernels.native import latent
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.latent import Latent
from triptych.kernels.native.team import capture

POSITIONS = 50
LIMIT = {torch.float32: 3e-6, torch.bfloat16: 2**-7}
# (rows, heads, plain, compressed, turned, values)
SHAPES = [(1, 4, 16, 32, 16, 16), (7, 20, 24, 80, 10, 20), (9, 3, 33, 16, 64, 5), (0, 2, 16, 16, 16, 16)]
# (tokens in the cache, queries)
MIXED = [(1, 1), (64, 1), (65, 2), (300, 70), (200, 1), (33, 33)]


@pytest.fixture(params=LIMIT, ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


def tables(turned: int) -> tuple[Tensor, Tensor]:
    angles = 7 * torch.rand(POSITIONS, turned // 2)
    return angles.cos(), angles.sin()


def near(result: Tensor, expected: Tensor) -> None:
    limit = LIMIT[result.dtype] * max(1.0, expected.abs().max().item() if expected.numel() else 0.0)
    assert not result.isnan().any()
    assert ((result.double() - expected.double()).abs() <= limit).all()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_queries(isa: Isa, threads: int, shape: tuple[int, ...], dtype: torch.dtype, interleaved: bool) -> None:
    rows, heads, plain, compressed, turned, _ = shape
    q, key_up = torch.randn(rows, heads, plain + turned), torch.randn(heads, plain, compressed) / plain**0.5
    q, key_up = q.to(dtype), key_up.to(dtype)
    out = torch.full((rows, heads, compressed + turned), torch.nan, dtype=dtype)
    positions, (cos, sin) = torch.randint(POSITIONS, (rows,)), tables(turned)
    assert latent.accepts_absorb(q, key_up, positions, cos, sin, out, interleaved)
    Latent(isa).absorb(q, key_up, positions, cos, sin, out, interleaved)
    expected = torch.empty(out.shape, dtype=torch.float64)
    wide = (q.double(), key_up.double(), positions, cos.double(), sin.double())
    absorb_query.implementation("reference")(*wide, expected, interleaved)
    near(out, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_values(isa: Isa, threads: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, heads, _, compressed, _, values = shape
    weighted = torch.randn(rows, heads, compressed).to(dtype)
    value_up = (torch.randn(heads, values, compressed) / compressed**0.5).to(dtype)
    out = torch.full((rows, heads, values), torch.nan, dtype=dtype)
    assert latent.accepts_expand(weighted, value_up, out)
    Latent(isa).expand(weighted, value_up, out)
    expected = torch.empty(out.shape, dtype=torch.float64)
    expand_value.implementation("reference")(weighted.double(), value_up.double(), expected)
    near(out, expected)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_stored(isa: Isa, shape: tuple[int, ...], dtype: torch.dtype, interleaved: bool) -> None:
    rows, _, _, compressed, turned, _ = shape
    x, weight = torch.randn(rows, compressed + turned).to(dtype), torch.randn(compressed).to(dtype)
    pages = torch.full((3, 1, 1, 16, compressed + turned), torch.nan, dtype=dtype)
    slots, positions = torch.randperm(48)[:rows], torch.randint(POSITIONS, (rows,))
    cos, sin = tables(turned)
    expected = pages.double()
    for norm in (weight, weight.float()):
        assert latent.accepts_store(x, norm, 1e-6, positions, cos, sin, slots, pages, interleaved)
        Latent(isa).store(x, norm, 1e-6, positions, cos, sin, slots, pages, interleaved)
        wide = (x.double(), weight.double(), 1e-6, positions, cos.double(), sin.double())
        store_latent.implementation("reference")(*wide, slots, expected, interleaved)
        near(pages.flatten(0, 3)[slots], expected.flatten(0, 3)[slots])
    untouched = torch.ones(48, dtype=torch.bool)
    untouched[slots] = False
    assert pages.flatten(0, 3)[untouched].isnan().all()


def filled(heads: int, compressed: int, turned: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, AttentionBatch]:
    """Queries of sequences in scattered blocks, and NaN where no token is."""
    blocks = [-(-length // 16) for length, _ in MIXED]
    pages = torch.full((sum(blocks) + 2, 1, 1, 16, compressed + turned), torch.nan, dtype=dtype)
    table = torch.full((len(MIXED), max(blocks)), 2**30, dtype=torch.int32)
    free = torch.randperm(len(pages))
    for row, (length, _) in enumerate(MIXED):
        own, free = free[: blocks[row]], free[blocks[row] :]
        table[row, : len(own)] = own
        token = torch.arange(length)
        pages[own[token // 16], 0, 0, token % 16] = torch.randn(length, compressed + turned).to(dtype)
    counts = torch.tensor([0, *(queries for _, queries in MIXED)])
    lengths = torch.tensor([length for length, _ in MIXED], dtype=torch.int32)
    q = torch.randn(int(counts.sum()), heads, compressed + turned).to(dtype)
    return q, pages, AttentionBatch(counts.cumsum(0).int(), lengths, table)


@pytest.mark.parametrize(("heads", "compressed", "turned"), [(4, 32, 16), (11, 80, 10), (8, 512, 64)])
def test_attention(isa: Isa, threads: int, heads: int, compressed: int, turned: int, dtype: torch.dtype) -> None:
    q, pages, batch = filled(heads, compressed, turned, dtype)
    out = torch.full((len(q), heads, compressed), torch.nan, dtype=dtype)
    assert latent.accepts_attend(q, pages, batch, 0.1, out)
    Latent(isa).attend(q, pages, batch, 0.1, out)
    expected = torch.empty(out.shape, dtype=torch.float64)
    latent_attention.implementation("reference")(q.double(), pages.double(), batch, 0.1, expected)
    near(out, expected)


def test_a_sequence_gets_the_same_bits_whatever_shares_its_batch(isa: Isa, dtype: torch.dtype) -> None:
    q, pages, batch = filled(10, 48, 16, dtype)
    together = torch.empty(len(q), 10, 48, dtype=dtype)
    with capture() as program:
        Latent(isa).attend(q, pages, batch, 0.1, together)
    program.run()
    starts = batch.query_start.tolist()
    for row, (length, queries) in enumerate(MIXED):
        for first in (0, queries // 2):  # the whole, and its later chunk
            span = slice(starts[row] + first, starts[row + 1])
            single = AttentionBatch(
                torch.tensor([0, queries - first], dtype=torch.int32),
                torch.tensor([length], dtype=torch.int32),
                batch.block_tables[row : row + 1],
            )
            alone = torch.empty(queries - first, 10, 48, dtype=dtype)
            Latent(isa).attend(q[span], pages, single, 0.1, alone)
            assert torch.equal(alone, together[span])
