"""Factors, caps and sums of whole tensors against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from triptych.kernels import add_gated
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.scaling import Scaling

GUARD = 7.0
SHAPES = [(1, 1), (3, 17), (33, 575), (0, 8)]
LIMIT = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_equals_float64_also_in_place(isa: Isa, rows: int, width: int, dtype: torch.dtype) -> None:
    ops = Scaling(isa)
    definitions: list[tuple[Callable[[Tensor, float, Tensor], None], float, Callable[[Tensor], Tensor]]] = [
        (ops.scale, 0.22, lambda x: x * 0.22),
        (ops.softcap, 30.0, lambda x: 30 * torch.tanh(x / 30)),
    ]
    x = (40 * torch.randn(rows, width)).to(dtype)
    for op, number, definition in definitions:
        memory = torch.full((rows + 2, width), GUARD, dtype=dtype)
        out = memory[1:-1].fill_(torch.nan)
        op(x, number, out)
        assert ((out.double() - definition(x.double())).abs() <= 2 * LIMIT[dtype] * x.double().abs()).all()
        assert (memory[[0, -1]] == GUARD).all()
        again = x.clone()
        op(again, number, again)
        assert torch.equal(again, out)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_sum_goes_back_and_on(isa: Isa, threads: int, rows: int, width: int, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, rows, width).to(dtype)
    total, out = x + residual, torch.full((rows, width), torch.nan, dtype=dtype)
    Scaling(isa).add_to(x, residual, out)
    assert torch.equal(residual, total)
    assert torch.equal(out, total)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_row_is_added_as_far_as_its_gate_is_open(
    isa: Isa, rows: int, width: int, gated: bool, dtype: torch.dtype
) -> None:
    x, out = torch.randn(2, rows, width).to(dtype)
    logits = 3 * torch.randn(rows, 1) if gated else None
    share = 1.0 if logits is None else logits.double().sigmoid()
    expected, again = out.double() + x.double() * share, out.clone()
    Scaling(isa).add_gated(x, logits, out)
    assert ((out.double() - expected).abs() <= 2 * LIMIT[dtype] * (1 + expected.abs())).all()
    add_gated.implementation("reference")(x, logits, again)
    assert ((again.double() - expected).abs() <= 4 * LIMIT[dtype] * (1 + expected.abs())).all()
