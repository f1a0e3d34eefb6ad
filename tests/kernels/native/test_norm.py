"""Root-mean-square norms against float64."""

import pytest
import torch
from torch import Tensor

from triptych.kernels import norm as ops
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.norm import Norm
from triptych.kernels.native.team import capture

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 576), (1, 1), (3, 15), (7, 33), (64, 576), (33, 2049), (500, 64), (0, 32)]
GUARD = 7.0
EPS = 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_rms_norm(isa: Isa, rows: int, width: int, dtype: torch.dtype) -> None:
    x, _, weight = inputs(rows, width, dtype)
    before = x.clone()
    with Guarded(rows, width, dtype) as out:
        Norm(isa).rms_norm(x, weight, EPS, out)
    near(out, exact(x, weight))
    assert torch.equal(x, before)
    Norm(isa).rms_norm(x, weight, EPS, x)
    assert torch.equal(x, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_add_rms_norm(isa: Isa, threads: int, rows: int, width: int, dtype: torch.dtype) -> None:
    x, residual, weight = inputs(rows, width, dtype)
    total, x_before = x + residual, x.clone()
    with Guarded(rows, width, dtype) as out, Guarded(rows, width, dtype) as stream:
        stream.copy_(residual)
        Norm(isa).add_rms_norm(x, stream, weight, EPS, out)
    assert torch.equal(stream, total)
    assert torch.equal(x, x_before)
    near(out, exact(total, weight))
    Norm(isa).add_rms_norm(x, residual, weight, EPS, x)
    assert torch.equal(x, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_rows_that_are_picked_are_normalised_as_all_are(isa: Isa, rows: int, width: int, dtype: torch.dtype) -> None:
    x, residual, weight = inputs(rows + 3, width, dtype)
    picked, before = torch.randint(rows + 3, (rows,)), residual.clone()
    with Guarded(rows, width, dtype) as out:
        Norm(isa).add_rms_norm_rows(x, residual, picked, weight, EPS, out)
    assert torch.equal(residual, before)
    everything = torch.empty_like(x)
    Norm(isa).add_rms_norm(x, residual, weight, EPS, everything)
    assert torch.equal(out, everything[picked])


def test_a_recorded_call_picks_the_rows_of_its_run(isa: Isa) -> None:
    x, residual, weight = inputs(9, 48, torch.bfloat16)
    picked, out, expected = torch.zeros(4, dtype=torch.int64), torch.empty(2, 4, 48).bfloat16(), torch.empty(4, 48)
    with capture() as program:
        Norm(isa).add_rms_norm_rows(x, residual, picked, weight, EPS, out[0])
    for _ in range(3):
        picked.copy_(torch.randint(9, (4,)))
        program.run()
        Norm(isa).add_rms_norm_rows(x, residual, picked, weight, EPS, out[1])
        assert torch.equal(out[0], out[1])
    ops.add_rms_norm_rows.implementation("reference")(x, residual, picked, weight, EPS, expected)
    torch.testing.assert_close(out[1].float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("width", [33, 256])
def test_a_float32_weight_beside_bfloat16_rows_is_not_rounded(isa: Isa, width: int) -> None:
    x, residual, _ = inputs(5, width, torch.bfloat16)
    weight, total = 1 + torch.randn(width) / 1000, x + residual
    with Guarded(5, width, torch.bfloat16) as out:
        Norm(isa).rms_norm(x, weight, EPS, out)
        near(out, exact(x, weight))
        Norm(isa).add_rms_norm_rows(x, residual, torch.arange(5), weight, EPS, out)
        near(out, exact(total, weight))
        Norm(isa).add_rms_norm(x, residual, weight, EPS, out)
        near(out, exact(total, weight))


def inputs(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x, residual = (3 * torch.randn(2, rows, width)).to(dtype)
    return x, residual, torch.randn(width).to(dtype)


def exact(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()


def near(result: Tensor, expected: Tensor) -> None:
    limit = {torch.float32: 4e-6, torch.bfloat16: 2**-8}[result.dtype]
    assert ((result.double() - expected).abs() <= limit * expected.abs()).all()


class Guarded:
    """NaN between two guard rows that must stay as they are."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        self._memory = torch.full((rows + 2, width), GUARD, dtype=dtype)

    def __enter__(self) -> Tensor:
        inner = self._memory[1:-1]
        return inner.fill_(torch.nan)

    def __exit__(self, *_: object) -> None:
        assert (self._memory[0] == GUARD).all()
        assert (self._memory[-1] == GUARD).all()
