"""silu(gate) · up against float64."""

import pytest
import torch

from triptych.kernels.native.activation import SiluMul
from triptych.kernels.native.isa import Isa

GUARD = 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1536), (1, 1), (3, 17), (33, 575), (0, 8)])
def test_equals_float64_also_in_place(isa: Isa, threads: int, rows: int, width: int, dtype: torch.dtype) -> None:
    gate, up = (20 * torch.randn(2, rows, width)).to(dtype)
    memory = torch.full((rows + 2, width), GUARD, dtype=dtype)
    out = memory[1:-1].fill_(torch.nan)
    SiluMul(isa)(gate, up, out)
    wide = gate.double()
    expected = wide * torch.sigmoid(wide) * up.double()
    limit = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert ((out.double() - expected).abs() <= limit * expected.abs() + 1e-30).all()
    assert (memory[[0, -1]] == GUARD).all()
    SiluMul(isa)(gate, up, gate)
    assert torch.equal(gate, out)


def test_extremes(isa: Isa) -> None:
    gate = torch.tensor([-torch.inf, -1e4, -100.0, 0.0, 100.0, torch.inf, torch.nan])
    out = torch.empty_like(gate)
    SiluMul(isa)(gate[1:], torch.ones(6), out[1:])
    assert out[1:6].tolist() == [0.0, 0.0, 0.0, 100.0, torch.inf]
    assert out[6].isnan()
