"""The paged cache: what is stored where, and attention over it against dense float64 attention."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from triptych import kernels
from triptych.kernels import AttentionBatch
from triptych.kernels.pages import keys_view, values_view

Poisoned = Callable[..., Tensor]
Close = Callable[[Tensor, Tensor], None]

# (tokens in the cache, queries): decode steps, whole prompts, and chunks whose borders are no block borders
MIXED = [(1, 1), (17, 1), (16, 16), (33, 9), (70, 24), (48, 5), (40, 40), (50, 1), (3, 2)]


@dataclass(frozen=True)
class Filled:
    """A pool that holds some sequences, and NaN everywhere else."""

    q: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    kv: Tensor
    batch: AttentionBatch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [6, 5])
@pytest.mark.parametrize("tokens", [1, 3, 30])
def test_store_kv_writes_the_slots_and_nothing_else(
    tokens: int, block_size: int, dtype: torch.dtype, poisoned: Poisoned
) -> None:
    k, v = torch.randn(2, tokens, 3, 10).to(dtype)
    kv = poisoned(7, 2, 3, block_size, 10, dtype=dtype)
    count = 7 * block_size
    slots = torch.randperm(count)[:tokens]
    kernels.store_kv(k, v, slots, kv)
    keys = keys_view(kv).transpose(1, 2).reshape(count, 3, 10)
    values = values_view(kv).permute(0, 2, 3, 1, 4).reshape(count, 3, 10)
    assert torch.equal(keys[slots], k)
    assert torch.equal(values[slots], v)
    untouched = torch.ones(count, dtype=torch.bool)
    untouched[slots] = False
    assert keys[untouched].isnan().all()
    assert values[untouched].isnan().all()


def test_pages_hold_pairs_of_16_bit_elements_and_single_wider_ones() -> None:
    k, v = torch.randn(2, 4, 1, 6)
    for dtype, packed in ((torch.float32, 1), (torch.bfloat16, 2), (torch.float16, 2)):
        kv = torch.empty(1, 2, 1, 4, 6, dtype=dtype)
        kernels.store_kv(k.to(dtype), v.to(dtype), torch.arange(4), kv)
        keys, values = kv.flatten(3)[0, :, 0]
        assert torch.equal(keys.view(6 // packed, 4, packed), k[:, 0].to(dtype).view(4, -1, packed).transpose(0, 1))
        assert torch.equal(values.view(4 // packed, 6, packed), v[:, 0].to(dtype).view(-1, packed, 6).transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (3, 1)], ids=lambda heads: f"{heads[0]}q{heads[1]}kv")
@pytest.mark.parametrize("sunk", [False, True], ids=["no sinks", "sinks"])
@pytest.mark.parametrize(("block_size", "window", "softcap"), [(16, 0, 0.0), (5, 0, 0.0), (6, 7, 0.0), (16, 20, 2.0)])
def test_a_mixed_batch_equals_dense_causal_attention(
    block_size: int,
    window: int,
    softcap: float,
    sunk: bool,
    heads: tuple[int, int],
    dtype: torch.dtype,
    poisoned: Poisoned,
    close: Close,
) -> None:
    filled = fill(MIXED, *heads, block_size, dtype, poisoned)
    out = poisoned(*filled.q.shape, dtype=dtype)
    sinks = torch.randn(heads[0]) if sunk else None
    kernels.paged_attention(filled.q, filled.kv, filled.batch, 0.3, out, window=window, softcap=softcap, sinks=sinks)
    starts = filled.batch.query_start.tolist()
    for row, (length, queries) in enumerate(MIXED):
        span = slice(starts[row], starts[row + 1])
        hidden = beyond(queries, length, window)
        close(out[span], dense(filled.q[span], filled.keys[row], filled.values[row], hidden, softcap, sinks))


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("block_size", [16, 5])
def test_tokens_of_an_image_see_each_other_as_far_as_the_window(
    block_size: int, window: int, poisoned: Poisoned, close: Close
) -> None:
    filled = fill(MIXED, 4, 2, block_size, torch.float32, poisoned)
    images: list[tuple[int, int, int]] = []
    hidden = []
    for row, (length, queries) in enumerate(MIXED):
        past = length - queries
        unseen = beyond(queries, length, 0)
        if queries > 2:  # the first of two images begins in the cache, the second ends with the sequence
            for first, stop in ((max(past - 3, 0), past + 2), (past + 2, length)):
                images.append((row, first, stop))
                unseen[max(first - past, 0) : stop - past, first:stop] = False
        ahead = torch.arange(length) - past - torch.arange(queries).unsqueeze(1)
        hidden.append(unseen | (ahead <= -window) if window else unseen)
    batch = replace(filled.batch, images=tuple(images))
    out = poisoned(*filled.q.shape, dtype=torch.float32)
    kernels.paged_attention(filled.q, filled.kv, batch, 0.3, out, window=window)
    starts = batch.query_start.tolist()
    for row in range(len(MIXED)):
        span = slice(starts[row], starts[row + 1])
        close(out[span], dense(filled.q[span], filled.keys[row], filled.values[row], hidden[row], 0.0, None))


def test_a_sequence_gets_the_same_bits_whatever_shares_its_batch(poisoned: Poisoned) -> None:
    filled = fill(MIXED, 6, 2, 16, torch.bfloat16, poisoned)
    together = poisoned(*filled.q.shape, dtype=torch.bfloat16)
    kernels.paged_attention(filled.q, filled.kv, filled.batch, 0.3, together)
    starts = filled.batch.query_start.tolist()
    for row, (length, queries) in enumerate(MIXED):
        span = slice(starts[row], starts[row + 1])
        alone = poisoned(queries, 6, 8, dtype=torch.bfloat16)
        single = AttentionBatch(
            query_start=torch.tensor([0, queries], dtype=torch.int32),
            kv_lengths=torch.tensor([length], dtype=torch.int32),
            block_tables=filled.batch.block_tables[row : row + 1],
        )
        kernels.paged_attention(filled.q[span], filled.kv, single, 0.3, alone)
        assert torch.equal(alone, together[span])


def fill(
    lengths: list[tuple[int, int]], heads: int, kv_heads: int, block_size: int, dtype: torch.dtype, poisoned: Poisoned
) -> Filled:
    blocks = [-(-length // block_size) for length, _ in lengths]
    kv = poisoned(sum(blocks) + 3, 2, kv_heads, block_size, 8, dtype=dtype)
    free = torch.randperm(len(kv)).tolist()
    keys, values = ([torch.randn(n, kv_heads, 8).to(dtype) for n, _ in lengths] for _ in range(2))
    tables = torch.full((len(lengths), max(blocks) + 1), -1, dtype=torch.int32)
    for row, count in enumerate(blocks):
        pages, free = free[:count], free[count:]
        tables[row, :count] = torch.tensor(pages)
        token = torch.arange(lengths[row][0])
        slots = torch.tensor(pages)[token // block_size] * block_size + token % block_size
        kernels.store_kv(keys[row], values[row], slots, kv)
    counts = torch.tensor([0, *(queries for _, queries in lengths)])
    batch = AttentionBatch(
        query_start=counts.cumsum(0).int(),
        kv_lengths=torch.tensor([length for length, _ in lengths], dtype=torch.int32),
        block_tables=tables,
    )
    return Filled(torch.randn(int(counts.sum()), heads, 8).to(dtype), keys, values, kv, batch)


def beyond(queries: int, length: int, window: int) -> Tensor:
    """[queries, length]: what a query does not see."""
    ahead = torch.arange(length) - (length - queries) - torch.arange(queries).unsqueeze(1)
    return (ahead > 0) | (ahead <= -window) if window else ahead > 0


def dense(q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, softcap: float, sinks: Tensor | None) -> Tensor:
    group = q.shape[1] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, dim=1) for x in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q.double(), keys) * 0.3
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    sink = torch.full((q.shape[1],), -torch.inf) if sinks is None else sinks
    sink = sink.double()[:, None, None].expand(-1, len(q), 1)
    scores = torch.cat((scores.masked_fill(hidden, -torch.inf), sink), -1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., :-1], values)
