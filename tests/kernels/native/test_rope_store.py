"""Rotation and the write to the pages, against float64 and against what must stay untouched."""

import pytest
import torch
from torch import Tensor

from triptych.kernels import rope_store
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.rope_store import RopeStore, accepts
from triptych.kernels.native.team import capture
from triptych.kernels.pages import keys_view, values_view

POSITIONS = 300
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "q_heads", "kv_heads", "dim", "turned", "block"),
    [
        (1, 9, 3, 64, 64, 16),
        (37, 9, 3, 64, 64, 16),
        (5, 4, 4, 128, 128, 32),
        (3, 2, 1, 6, 6, 4),
        (9, 3, 1, 46, 46, 6),
        (300, 8, 2, 80, 80, 16),
        (7, 4, 2, 128, 96, 16),
        (7, 2, 1, 80, 20, 16),
    ],
)
def test_equals_float64(
    isa: Isa,
    threads: int,
    rows: int,
    q_heads: int,
    kv_heads: int,
    dim: int,
    turned: int,
    block: int,
    dtype: torch.dtype,
    interleaved: bool,
) -> None:
    q, k, v = (torch.randn(rows, heads, dim).to(dtype) for heads in (q_heads, kv_heads, kv_heads))
    cos, sin, positions, slots, kv = step(rows, kv_heads, dim, block, dtype)
    cos, sin = (table[:, : turned // 2].contiguous() for table in (cos, sin))
    expected_q, expected_k = (
        rotated(heads.double(), positions, cos.double(), sin.double(), interleaved) for heads in (q, k)
    )
    before, values = kv.clone(), v.clone()
    assert accepts(q, k, v, positions, cos, sin, slots, kv, interleaved)
    RopeStore(isa)(q, k, v, positions, cos, sin, slots, kv, interleaved)
    near(q, expected_q)
    near(keys_of(kv, slots), expected_k)
    assert torch.equal(values_of(kv, slots), values)
    assert torch.equal(v, values)
    erase(kv, slots)
    erase(before, slots)
    assert torch.equal(kv.view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_call_follows_positions_and_slots(isa: Isa, threads: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(40, heads, 64).to(dtype) for heads in (6, 2, 2))
    cos, sin, positions, slots, kv = step(40, 2, 64, 16, dtype)
    with capture() as program:
        RopeStore(isa)(q, k, v, positions, cos, sin, slots, kv)
    for _ in range(2):
        _, _, new_positions, new_slots, _ = step(40, 2, 64, 16, dtype)
        positions.copy_(new_positions)
        slots.copy_(new_slots)
        q.copy_(torch.randn(q.shape))
        k.copy_(torch.randn(k.shape))
        again = q.clone(), k.clone(), v.clone()
        pool = kv.clone()
        program.run()
        RopeStore(isa)(*again, positions, cos, sin, slots, pool)
        assert torch.equal(q, again[0])
        assert torch.equal(kv.view(torch.uint8), pool.view(torch.uint8))


def test_the_reference_agrees(isa: Isa) -> None:
    q, k, v = (torch.randn(7, heads, 32) for heads in (6, 2, 2))
    cos, sin, positions, slots, kv = step(7, 2, 32, 16, torch.float32)
    pool, queries = kv.clone(), q.clone()
    cos, sin = cos[:, :9].contiguous(), sin[:, :9].contiguous()
    rope_store.implementation("reference")(queries, k.clone(), v, positions, cos, sin, slots, pool, True)
    RopeStore(isa)(q, k, v, positions, cos, sin, slots, kv, True)
    torch.testing.assert_close(q, queries, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kv, pool, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_refuses_what_it_cannot_read() -> None:
    q, k, v = (torch.randn(4, heads, 32) for heads in (6, 2, 2))
    cos, sin, positions, slots, kv = step(4, 2, 32, 16, torch.float32)
    assert not accepts(q.bfloat16(), k, v, positions, cos, sin, slots, kv)
    assert not accepts(q.half(), k.half(), v.half(), positions, cos, sin, slots, kv.half())
    assert not accepts(q, k, v, positions, cos.double(), sin.double(), slots, kv)
    assert not accepts(q, k, v, positions, cos[:, :8], sin[:, :8], slots, kv)
    assert not accepts(q, k, v, positions, *torch.ones(2, POSITIONS, 17), slots, kv)
    assert not accepts(q, k, v, positions, cos, sin, slots, torch.zeros(9, 2, 2, 5, 32, dtype=torch.bfloat16))
    assert not accepts(q[:, ::2], k, v, positions, cos, sin, slots, kv)


def step(rows: int, heads: int, dim: int, block: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Tables, positions, slots and a pool of NaN."""
    angles = torch.rand(POSITIONS, dim // 2, dtype=torch.float64) * 7
    blocks = rows // block + 3
    kv = torch.full((blocks, 2, heads, block, dim), torch.nan, dtype=dtype)
    slots = torch.randperm(blocks * block)[:rows]
    return angles.cos().float(), angles.sin().float(), torch.randint(POSITIONS, (rows,)), slots, kv


def rotated(heads: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    half = cos.shape[1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    )
    c, s, out = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1), heads.clone()
    out[..., first] = heads[..., first] * c - heads[..., second] * s
    out[..., second] = heads[..., second] * c + heads[..., first] * s
    return out


def keys_of(kv: Tensor, slots: Tensor) -> Tensor:
    block = kv.shape[3]
    return keys_view(kv)[slots // block, :, slots % block].flatten(-2)


def values_of(kv: Tensor, slots: Tensor) -> Tensor:
    block, view = kv.shape[3], values_view(kv)
    return view[slots // block, :, slots % block // view.shape[3], slots % block % view.shape[3]]


def erase(kv: Tensor, slots: Tensor) -> None:
    block, values = kv.shape[3], values_view(kv)
    keys_view(kv)[slots // block, :, slots % block] = 0
    values[slots // block, :, slots % block // values.shape[3], slots % block % values.shape[3]] = 0


def near(result: Tensor, expected: Tensor) -> None:
    error = (result.double() - expected).abs() / (expected.abs() + 1)
    assert float(error.max()) <= ROUNDING[result.dtype]
