"""Kernels get addresses: what does not fit its shapes must raise, and not be written somewhere else."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from triptych import kernels
from triptych.kernels import AttentionBatch, native
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight

GUARD = 7.0


@pytest.fixture(autouse=True)
def installed() -> None:
    if native.install().isa is None:
        pytest.skip("kernels cannot be compiled here")


def guarded(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A tensor, and the memory that it lies in the middle of."""
    size = torch.Size(shape).numel()
    memory = torch.full((size + 8192,), GUARD).to(dtype)
    return memory[4096 : 4096 + size].view(shape), memory


def weights() -> Iterator[Weight]:
    """[64, 32] in each form."""
    yield DenseWeight(torch.randn(64, 32))
    yield Int8Weight(torch.ones(4, 8, 16, 4).char(), torch.ones(64), 32)
    yield GgufWeight(torch.zeros(64, 34, dtype=torch.uint8), "Q8_0", 32)


def refused(memory: Tensor, call: Callable[[], None]) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        call()
    assert (memory == torch.tensor(GUARD).to(memory.dtype)).all()


@pytest.mark.parametrize("weight", list(weights()), ids=lambda weight: type(weight).__name__)
def test_projections(weight: Weight) -> None:
    for rows, inputs, outputs in ((2, 31, 64), (2, 48, 64), (2, 32, 63), (2, 32, 8), (1, 32, 64)):
        x = torch.randn(2, inputs)
        out, memory = guarded(rows, outputs)
        refused(memory, lambda x=x, out=out: kernels.linear(x, weight, None, out))  # type: ignore[misc]
        refused(memory, lambda x=x, out=out: kernels.linears(x, ((weight, None, out),)))  # type: ignore[misc]
        refused(memory, lambda x=x, out=out: kernels.gated_linear(x, weight, weight, out))  # type: ignore[misc]
    out, memory = guarded(2, 64)
    x = torch.randn(2, 32)
    assert not native_takes_bias(x, weight, torch.zeros(63), out)
    ids, memory = guarded(1, dtype=torch.int64)
    refused(memory, lambda: kernels.linear_argmax(x, weight, ids, torch.empty(2)))


def native_takes_bias(x: Tensor, weight: Weight, bias: Tensor, out: Tensor) -> bool:
    backend = kernels.linear._chosen["cpu"]
    return backend.accepts(x, weight, bias, out)


@pytest.mark.parametrize("weight", list(weights()), ids=lambda weight: type(weight).__name__)
def test_embedding(weight: Weight) -> None:
    for shape in ((3, 16), (2, 32), (3, 64)):
        out, memory = guarded(*shape)
        refused(memory, lambda out=out: kernels.embedding(torch.arange(3), weight, out))  # type: ignore[misc]


def test_norms() -> None:
    x, weight = torch.randn(4, 32), torch.ones(32)
    out, memory = guarded(3, 32)
    refused(memory, lambda: kernels.rms_norm(x, weight, 1e-5, out))
    refused(memory, lambda: kernels.rms_norm(out, torch.ones(31), 1e-5, out))
    refused(memory, lambda: kernels.add_rms_norm(x, out, weight, 1e-5, x))
    refused(memory, lambda: kernels.add_rms_norm_rows(x, x, torch.arange(4), weight, 1e-5, out))
    refused(memory, lambda: kernels.silu_mul(x, x, out))


def test_rope_store() -> None:
    cos = torch.ones(9, 8)
    for tokens, kv_heads, head_dim, slots in ((3, 2, 16, 3), (2, 3, 16, 2), (2, 2, 32, 2), (2, 2, 16, 3)):
        q, k, v = torch.randn(2, 4, 16), torch.randn(tokens, 2, 16), torch.randn(tokens, 2, 16)
        kv, memory = guarded(4, 2, kv_heads, 16, head_dim)
        places = torch.arange(slots)
        refused(
            memory,
            lambda q=q, k=k, v=v, kv=kv, places=places: kernels.rope_store(  # type: ignore[misc]
                q, k, v, torch.arange(2), cos, cos, places, kv
            ),
        )


def test_attention() -> None:
    kv = torch.randn(4, 2, 2, 16, 16)
    batch = AttentionBatch(*(torch.tensor(x, dtype=torch.int32) for x in ([0, 2], [5], [[1]])))
    for q_shape, out_shape in (((2, 5, 16), (2, 5, 16)), ((2, 4, 32), (2, 4, 32)), ((2, 4, 16), (1, 4, 16))):
        out, memory = guarded(*out_shape)
        q = torch.randn(q_shape)
        refused(memory, lambda q=q, out=out: kernels.paged_attention(q, kv, batch, 1.0, out))  # type: ignore[misc]
    wide = AttentionBatch(batch.query_start.long(), batch.kv_lengths.long(), batch.block_tables.long())
    q, out = torch.randn(2, 4, 16), torch.empty(2, 4, 16)
    assert not kernels.paged_attention._chosen["cpu"].accepts(q, kv, wide, 1.0, out)


def test_drawing() -> None:
    row = torch.ones(3, dtype=torch.float64)
    out, memory = guarded(2, dtype=torch.int64)
    logits = torch.randn(3, 8)
    assert not kernels.draw_token._chosen["cpu"].accepts(logits, row, row.long(), row, row, row, out)
    refused(memory[:1], lambda: kernels.draw_token(logits, row[:2], row.long(), row, row, row, out))
