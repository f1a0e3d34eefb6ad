"""Ops that treat every row by itself, against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from triptych import kernels
from triptych.kernels import DenseWeight, Op

Poisoned = Callable[..., Tensor]
Close = Callable[[Tensor, Tensor], None]

DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 7, 33]
WIDTH = 37


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_embedding_copies_rows_of_the_table(rows: int, dtype: torch.dtype, poisoned: Poisoned) -> None:
    table, ids, out = torch.randn(11, WIDTH).to(dtype), torch.randint(11, (rows,)), poisoned(rows, WIDTH, dtype=dtype)
    kernels.embedding(ids, DenseWeight(table), out)
    assert torch.equal(out, table[ids])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm(rows: int, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, weight, out = (3 * torch.randn(rows, WIDTH)).to(dtype), torch.randn(WIDTH).to(dtype), poisoned(rows, WIDTH)
    before = x.clone()
    kernels.rms_norm(x, weight, 1e-3, out)
    close(out, rms(x.double(), weight.double(), 1e-3))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm_updates_the_residual_and_may_write_into_its_input(dtype: torch.dtype, close: Close) -> None:
    x, residual = torch.randn(5, WIDTH).to(dtype), torch.randn(5, WIDTH).to(dtype)
    weight, total = torch.randn(WIDTH).to(dtype), x + residual
    kernels.add_rms_norm(x, residual, weight, 1e-5, x)
    assert torch.equal(residual, total)
    close(x, rms(total.double(), weight.double(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, weight, bias = (1 + 2 * torch.randn(2, 3, WIDTH)).to(dtype), *torch.randn(2, WIDTH).to(dtype)
    out = poisoned(2, 3, WIDTH, dtype=dtype)
    kernels.layer_norm(x, weight, bias, 1e-3, out)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    close(out, centred * scale * weight.double() + bias.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_linear(rows: int, biased: bool, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, weight = torch.randn(rows, WIDTH).to(dtype), (torch.randn(29, WIDTH) / 6).to(dtype)
    bias = torch.randn(29).to(dtype) if biased else None
    out = poisoned(rows, 29, dtype=dtype)
    kernels.linear(x, DenseWeight(weight), bias, out)
    expected = x.double() @ weight.double().T
    close(out, expected if bias is None else expected + bias.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_rotates_pairs_half_a_head_apart_or_neighbours(
    rows: int, interleaved: bool, dtype: torch.dtype, close: Close
) -> None:
    q, k = torch.randn(rows, 6, 10).to(dtype), torch.randn(rows, 2, 10).to(dtype)
    angles, positions = torch.rand(50, 5, dtype=torch.float64) * 7, torch.randint(50, (rows,))
    turn = torch.polar(torch.ones_like(angles), angles)[positions].unsqueeze(1)
    places = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, 5), slice(5, 10))
    expected = []
    for heads in (q.double(), k.double()):
        real, imaginary = (heads[..., place].contiguous() for place in places)
        rotated, result = torch.complex(real, imaginary) * turn, torch.empty_like(heads)
        result[..., places[0]], result[..., places[1]] = rotated.real, rotated.imag
        expected.append(result)
    kernels.rope(q, k, positions, angles.cos().float(), angles.sin().float(), interleaved)
    close(q, expected[0])
    close(k, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_may_write_into_the_gate(dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    gate, up = (3 * torch.randn(2, 9, WIDTH)).to(dtype)
    out = poisoned(9, WIDTH, dtype=dtype)
    expected = gate.double() * torch.sigmoid(gate.double()) * up.double()
    kernels.silu_mul(gate, up, out)
    close(out, expected)
    kernels.silu_mul(gate, up, gate)
    assert torch.equal(gate, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("op", "reference"),
    [
        (kernels.gelu, lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        (kernels.quick_gelu, lambda x: x / (1 + torch.exp(-1.702 * x))),
    ],
    ids=["gelu", "quick_gelu"],
)
def test_activation_may_write_into_its_input(
    op: Op[[Tensor]],
    reference: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    poisoned: Poisoned,
    close: Close,
) -> None:
    x, out = (3 * torch.randn(9, WIDTH)).to(dtype), poisoned(9, WIDTH, dtype=dtype)
    op(x, out)
    close(out, reference(x.double()))
    op(x, x)
    assert torch.equal(x, out)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
