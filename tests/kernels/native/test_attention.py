"""Attention over the paged cache against float64: shapes, batches, and what must not be read."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from triptych.kernels import AttentionBatch
from triptych.kernels.native import attention
from triptych.kernels.native.attention import PagedAttention, accepts
from triptych.kernels.native.compile import SOURCES
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.team import capture
from triptych.kernels.pages import keys_view, packing, values_view

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 1e-2}
GUARD = 7.0

# (tokens in the cache, queries): decode steps, whole prompts, chunks, and contexts that are split over their tokens
MIXED = [(1, 1), (17, 1), (16, 16), (33, 9), (255, 24), (257, 5), (300, 300), (1200, 1), (3, 2), (700, 2), (600, 80)]
# (query heads, key heads, head size, block size, window, softcap)
SHAPES = [
    (9, 3, 64, 16, 0, 0.0),
    (2, 2, 16, 32, 0, 0.0),
    (7, 1, 48, 16, 37, 0.0),
    (8, 2, 128, 16, 0, 5.0),
    (3, 1, 80, 48, 600, 30.0),
    (2, 1, 256, 16, 1, 0.0),
]


@dataclass(frozen=True, slots=True)
class Case:
    """A pool that holds some sequences, and NaN everywhere else."""

    q: Tensor
    kv: Tensor
    batch: AttentionBatch
    keys: list[Tensor]
    values: list[Tensor]

    def rows(self, sequence: int) -> slice:
        """Query rows of a sequence."""
        return slice(*self.batch.query_start[sequence : sequence + 2].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mixed_batch(
    isa: Isa, threads: int, shape: tuple[int, int, int, int, int, float], dtype: torch.dtype
) -> None:
    heads, kv_heads, head_dim, block_size, window, softcap = shape
    case = fill(MIXED, heads, kv_heads, head_dim, block_size, dtype)
    out = attend(isa, case, window=window, softcap=softcap)
    for sequence, (length, queries) in enumerate(MIXED):
        expected = exact(case, sequence, length - queries, window, softcap)
        near(out[case.rows(sequence)], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_batches(isa: Isa, dtype: torch.dtype) -> None:
    for _ in range(6):
        lengths = torch.randint(1, 400, (int(torch.randint(1, 12, ())),)).tolist()
        tokens = [(n, 1 if torch.rand(()) < 0.5 else int(torch.randint(1, n + 1, ()))) for n in lengths]
        group, head_dim = int(torch.randint(1, 14, ())), 16 * int(torch.randint(1, 9, ()))
        case = fill(tokens, 2 * group, 2, head_dim, 16, dtype)
        window = int(torch.randint(0, 300, ()))
        out = attend(isa, case, window=window)
        for sequence, (length, queries) in enumerate(tokens):
            near(out[case.rows(sequence)], exact(case, sequence, length - queries, window, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 256])
@pytest.mark.parametrize("group", [48, 49, 71, 128])
def test_groups_of_many_heads(isa: Isa, group: int, head_dim: int, dtype: torch.dtype) -> None:
    """As many query heads to one key head as a tile has rows, and more."""
    tokens = [(5, 5), (33, 1), (20, 3), (530, 1)]
    case = fill(tokens, 2 * group, 2, head_dim, 16, dtype)
    out = attend(isa, case)
    for sequence, (length, queries) in enumerate(tokens):
        near(out[case.rows(sequence)], exact(case, sequence, length - queries, 0, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [511, 512, 513, 2000, 8193])
def test_long_contexts(isa: Isa, threads: int, length: int, dtype: torch.dtype) -> None:
    case = fill([(length, 1)], 3, 1, 32, 16, dtype)
    near(attend(isa, case), exact(case, 0, length - 1, 0, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_sinks_take_their_share_of_every_softmax(
    isa: Isa, threads: int, size: float, softcap: float, dtype: torch.dtype
) -> None:
    case, sinks = fill(MIXED, 6, 2, 64, 16, dtype), size * torch.randn(6)
    out = attend(isa, case, window=300, softcap=softcap, sinks=sinks)
    for sequence, (length, queries) in enumerate(MIXED):
        near(out[case.rows(sequence)], exact(case, sequence, length - queries, 300, softcap, sinks))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores(isa: Isa, dtype: torch.dtype) -> None:
    case = fill([(40, 20), (600, 1)], 4, 2, 64, 16, dtype)
    case.q.mul_(8)
    out = attend(isa, case)
    for sequence, past in enumerate((20, 599)):
        near(out[case.rows(sequence)], exact(case, sequence, past, 0, 0.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_gets_the_same_bits_whatever_shares_its_batch(isa: Isa, threads: int, dtype: torch.dtype) -> None:
    case = fill(MIXED, 6, 2, 64, 16, dtype)
    together = attend(isa, case)
    for sequence, (length, queries) in enumerate(MIXED):
        alone = AttentionBatch(
            torch.tensor([0, queries], dtype=torch.int32),
            torch.tensor([length], dtype=torch.int32),
            case.batch.block_tables[sequence : sequence + 1],
        )
        out = attend(isa, replace(case, q=case.q[case.rows(sequence)], batch=alone))
        assert torch.equal(out, together[case.rows(sequence)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 70])
def test_a_token_gets_the_same_bits_in_any_chunk(isa: Isa, window: int, dtype: torch.dtype) -> None:
    case = fill([(500, 500)], 6, 2, 64, 16, dtype)
    whole = attend(isa, case, window=window)
    start = 0
    while start < 500:
        stop = min(500, start + int(torch.randint(1, 150, ())))
        chunk = AttentionBatch(
            torch.tensor([0, stop - start], dtype=torch.int32),
            torch.tensor([stop], dtype=torch.int32),
            case.batch.block_tables,
        )
        out = attend(isa, replace(case, q=case.q[start:stop], batch=chunk), window=window)
        assert torch.equal(out, whole[start:stop])
        start = stop


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_recorded_call_reads_the_lengths_of_the_moment(isa: Isa, threads: int, dtype: torch.dtype) -> None:
    case = fill([(1500, 1), (900, 1), (64, 1)], 9, 3, 64, 16, dtype)
    out = torch.empty_like(case.q)
    with capture() as program:
        PagedAttention(isa)(case.q, case.kv, case.batch, 0.125, out)
    for lengths in ([1500, 900, 64], [3, 513, 17], [1, 1, 1]):
        case.batch.kv_lengths.copy_(torch.tensor(lengths))
        program.run()
        eager = attend(isa, replace(case, batch=replace(case.batch)), scale=0.125)
        assert torch.equal(out, eager)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize(("length", "queries"), [(20, 1), (20, 20), (300, 41), (1300, 1)])
def test_nan_shows_in_every_row_that_sees_it(
    isa: Isa, length: int, queries: int, softcap: float, dtype: torch.dtype
) -> None:
    """In a query, in a key, and in a value; never as a plausible number, and never in another row or head."""
    past = length - queries
    for token in {0, past // 2, past, length - 1}:
        case = fill([(length, queries), (50, 3)], 6, 2, 32, 16, dtype)
        page, offset = case.batch.block_tables[0, token // 16], token % 16
        keys_view(case.kv)[page, 1, offset, 7] = torch.nan
        case.q[0, 1, 5] = torch.nan
        out = attend(isa, case, softcap=softcap)
        expected = torch.zeros(len(out), 6, dtype=torch.bool)
        expected[max(0, token - past) : queries, 3:] = True
        expected[0, 1] = True
        assert torch.equal(out.isnan().all(-1), expected)
        assert torch.equal(out.isnan().any(-1), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "queries"), [(20, 1), (300, 41), (1300, 1)])
def test_nan_of_a_value_shows_in_its_dimension(isa: Isa, length: int, queries: int, dtype: torch.dtype) -> None:
    case = fill([(length, queries), (50, 3)], 6, 2, 32, 16, dtype)
    token = int(torch.randint(length - queries + 1, ()))
    values_view(case.kv)[case.batch.block_tables[0, token // 16], 0, token % 16 // packing(case.kv)][
        token % packing(case.kv), 9
    ] = torch.nan
    expected = torch.zeros_like(case.q, dtype=torch.bool)
    expected[:queries, :3, 9] = True
    assert torch.equal(attend(isa, case).isnan(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 20])
def test_nan_of_a_hidden_key_stays_hidden(isa: Isa, window: int, dtype: torch.dtype) -> None:
    """Of a later token, or of one before the window; what is no token at all is NaN in every test here."""
    case = fill([(60, 33), (45, 1)], 6, 2, 32, 16, dtype)
    before = attend(isa, case, window=window)
    keys_view(case.kv)[case.batch.block_tables[0, 59 // 16], :, 59 % 16] = torch.nan
    hidden = slice(0, 32)
    if window:
        for row in range(2):
            keys_view(case.kv)[case.batch.block_tables[row, 0], :, 0] = torch.nan
    after = attend(isa, case, window=window)
    assert torch.equal(after[hidden], before[hidden])
    assert torch.equal(after[33], before[33])
    assert after[32].isnan().all()


def test_rows_may_lie_apart(isa: Isa) -> None:
    case = fill([(50, 7), (9, 1)], 4, 2, 32, 16, torch.bfloat16)
    wide = torch.full((8, 200), GUARD, dtype=torch.bfloat16)
    q, out = wide[:, :128].view(8, 4, 32), torch.full((8, 160), GUARD, dtype=torch.bfloat16)
    q.copy_(case.q)
    PagedAttention(isa)(q, case.kv, case.batch, 32**-0.5, out[:, :128].view(8, 4, 32))
    assert torch.equal(out[:, :128].view(8, 4, 32), attend(isa, case))
    assert (out[:, 128:] == GUARD).all()


def test_memory_for_splits_is_sized_by_the_constants_of_the_source() -> None:
    source = (SOURCES / "attention_work.h").read_text()
    for name, value in (
        ("kTileRows", attention._TILE_ROWS),
        ("kMaxSplits", attention._MAX_SPLITS),
        ("kSplitTokens", attention._SPLIT_TOKENS),
    ):
        assert re.search(rf"constexpr int64_t {name} = {value};", source)


@pytest.mark.parametrize(("block_size", "head_dim"), [(8, 64), (16, 40), (16, 272)])
def test_other_shapes_stay_with_the_reference(block_size: int, head_dim: int) -> None:
    q, kv = torch.empty(1, 2, head_dim), torch.empty(1, 2, 1, block_size, head_dim)
    one = torch.ones(1, dtype=torch.int32)
    assert not accepts(q, kv, AttentionBatch(torch.tensor([0, 1], dtype=torch.int32), one, one.view(1, 1)), 1.0, q)


def attend(
    isa: Isa,
    case: Case,
    *,
    window: int = 0,
    softcap: float = 0.0,
    scale: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The kernel's result, in rows that it must fill and between rows that it must leave."""
    scale = case.q.shape[-1] ** -0.5 if scale is None else scale
    guarded = torch.full((len(case.q) + 2, *case.q.shape[1:]), GUARD, dtype=case.q.dtype)
    out = guarded[1:-1].fill_(torch.nan)
    assert accepts(case.q, case.kv, case.batch, scale, out, window=window, softcap=softcap, sinks=sinks)
    PagedAttention(isa)(case.q, case.kv, case.batch, scale, out, window=window, softcap=softcap, sinks=sinks)
    assert (guarded[[0, -1]] == GUARD).all()
    return out


def fill(
    tokens: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> Case:
    """Random sequences of (tokens, queries) in scattered blocks."""
    blocks = [-(-length // block_size) for length, _ in tokens]
    kv = torch.full((sum(blocks) + 3, 2, kv_heads, block_size, head_dim), torch.nan, dtype=dtype)
    tables = torch.full((len(tokens), max(blocks) + 1), 2**30, dtype=torch.int32)
    free = torch.randperm(len(kv))
    keys, values = [], []
    for row, (length, _) in enumerate(tokens):
        pages, free = free[: blocks[row]], free[blocks[row] :]
        tables[row, : len(pages)] = pages
        token, packed = torch.arange(length), packing(kv)
        place, offset = pages[token // block_size], token % block_size
        k, v = torch.randn(2, length, kv_heads, head_dim).to(dtype)
        keys_view(kv)[place, :, offset] = k.view(length, kv_heads, -1, packed)
        values_view(kv)[place, :, offset // packed, offset % packed] = v
        keys.append(k)
        values.append(v)
    counts = torch.tensor([0, *(queries for _, queries in tokens)])
    lengths = torch.tensor([length for length, _ in tokens], dtype=torch.int32)
    q = torch.randn(int(counts.sum()), heads, head_dim).to(dtype)
    return Case(q, kv, AttentionBatch(counts.cumsum(0).int(), lengths, tables), keys, values)


def exact(case: Case, sequence: int, past: int, window: int, softcap: float, sinks: Tensor | None = None) -> Tensor:
    """The same in float64, without pages."""
    q = case.q[case.rows(sequence)].double()
    group = q.shape[1] // case.kv.shape[2]
    keys, values = (x[sequence].double().repeat_interleave(group, dim=1) for x in (case.keys, case.values))
    scores = torch.einsum("qhd,khd->hqk", q, keys) * q.shape[-1] ** -0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    ahead = torch.arange(len(keys)) - past - torch.arange(len(q)).unsqueeze(1)
    hidden = (ahead > 0) | (ahead <= -window) if window else ahead > 0
    sink = torch.full((q.shape[1],), -torch.inf) if sinks is None else sinks
    scores = torch.cat(
        (scores.masked_fill(hidden, -torch.inf), sink.double()[:, None, None].expand(-1, len(q), 1)), -1
    )
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., :-1], values)


def near(result: Tensor, expected: Tensor) -> None:
    """Within a few roundings of the type; fails on NaN."""
    limit = TOLERANCE[result.dtype] * max(1.0, expected.abs().max().item())
    assert (result.double() - expected).abs().max().item() <= limit
