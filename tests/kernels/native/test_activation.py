"""act(gate) · up against float64."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels.native.activation import Gate, GatedMul
from triptych.kernels.native.isa import Isa

GUARD = 7.0
ACTS: Mapping[Gate, Callable[[Tensor], Tensor]] = {
    Gate.SILU: functional.silu,
    Gate.GELU: functional.gelu,
    Gate.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1536), (1, 1), (3, 17), (33, 575), (0, 8)])
def test_equals_float64_also_in_place(
    isa: Isa, threads: int, rows: int, width: int, dtype: torch.dtype, act: Gate
) -> None:
    gate, up = (20 * torch.randn(2, rows, width)).to(dtype)
    memory = torch.full((rows + 2, width), GUARD, dtype=dtype)
    out = memory[1:-1].fill_(torch.nan)
    GatedMul(isa, act)(gate, up, out)
    expected = ACTS[act](gate.double()) * up.double()
    limit = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    # Where the gate is far below zero, 1 + erf or tanh has the precision of 1.
    near_one = 0.0 if act is Gate.SILU else 2e-7 * (gate.double() * up.double()).abs()
    assert ((out.double() - expected).abs() <= limit * expected.abs() + near_one + 1e-30).all()
    assert (memory[[0, -1]] == GUARD).all()
    GatedMul(isa, act)(gate, up, gate)
    assert torch.equal(gate, out)


def test_extremes(isa: Isa) -> None:
    gate = torch.tensor([-torch.inf, -1e4, -100.0, 0.0, 100.0, torch.inf, torch.nan])
    out = torch.empty_like(gate)
    GatedMul(isa, Gate.SILU)(gate[1:], torch.ones(6), out[1:])
    assert out[1:6].tolist() == [0.0, 0.0, 0.0, 100.0, torch.inf]
    assert out[6].isnan()
