"""Low-rank adapters of projections against float64, on every instruction set."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from triptych.kernels import LowRank, LowRankPair, low_rank
from triptych.kernels.native import team
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.low_rank import LowRankKernel, accepts

GUARD = 3.0
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-7}


def adapters_of(ranks: Sequence[int], inputs: int, outputs: int, dtype: torch.dtype) -> LowRank:
    """Of these ranks; 0 leaves the projection alone."""
    pairs = [
        LowRankPair(
            torch.randn(rank, inputs).mul_(0.1).to(dtype), torch.randn(rank, outputs).to(dtype), 0.3 + 0.1 * rank
        )
        if rank
        else None
        for rank in ranks
    ]
    return LowRank(tuple(pairs), inputs, outputs)


def guarded(rows: int, outputs: int, dtype: torch.dtype) -> Tensor:
    """Memory with rows behind it that nobody may touch."""
    memory = torch.randn(rows + 1, outputs).to(dtype)
    memory[rows:] = GUARD
    return memory


def exact(x: Tensor, rows: Tensor, adapters: LowRank, out: Tensor) -> tuple[Tensor, Tensor]:
    """The result in float64, and what its products add up to in size."""
    result, size = out.double(), out.double().abs()
    for row, adapter in enumerate(rows.tolist()):
        if adapter >= 0 and (pair := adapters.pairs[adapter]) is not None:
            down, up, wide = pair.down.double(), pair.up.double(), x[row].double()
            result[row] += pair.scale * (wide @ down.T @ up)
            size[row] += pair.scale * (wide.abs() @ down.abs().T @ up.abs())
    return result, size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("rows", "inputs", "ranks"), [(1, 96, (4,)), (7, 33, (1, 0, 17)), (45, 130, (16, 40, 3))])
def test_every_row_gets_what_its_adapter_adds(
    isa: Isa, threads: int, dtype: torch.dtype, rows: int, inputs: int, ranks: tuple[int, ...]
) -> None:
    kernel, widths = LowRankKernel(isa), (80, 16, 9)
    chosen = torch.randint(-1, len(ranks), (rows,), dtype=torch.int32)
    x = torch.randn(rows, inputs).to(dtype)
    projections = [(adapters_of(ranks, inputs, width, dtype), guarded(rows, width, dtype)) for width in widths]
    calls = [(adapters, memory[:rows]) for adapters, memory in projections]
    expected = [exact(x, chosen, adapters, out) for adapters, out in calls]
    before = [out.clone() for _, out in calls]
    assert accepts(x, chosen, calls)
    kernel(x, chosen, calls)
    for (_, memory), (result, size), old in zip(projections, expected, before, strict=True):
        off = ((memory[:rows].double() - result).abs() / size).max()
        assert off <= TOLERANCE[dtype]
        assert torch.equal(memory[:rows][chosen < 0], old[chosen < 0])
        assert (memory[rows:] == GUARD).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_row_has_the_same_result_in_any_company(isa: Isa, dtype: torch.dtype) -> None:
    kernel, adapters = LowRankKernel(isa), adapters_of((5, 24), 70, 50, dtype)
    x, chosen = torch.randn(19, 70).to(dtype), torch.randint(-1, 2, (19,), dtype=torch.int32)
    together = torch.zeros(19, 50, dtype=dtype)
    kernel(x, chosen, [(adapters, together)])
    for row in range(19):
        alone = torch.zeros(1, 50, dtype=dtype)
        kernel(x[row : row + 1].contiguous(), chosen[row : row + 1], [(adapters, alone)])
        assert torch.equal(alone[0], together[row])


def test_a_recorded_call_follows_the_numbers_of_the_adapters(isa: Isa) -> None:
    kernel, adapters = LowRankKernel(isa), adapters_of((4, 4), 32, 32, torch.float32)
    x, chosen, out = torch.randn(2, 32), torch.tensor([0, -1], dtype=torch.int32), torch.zeros(2, 32)
    with team.capture() as program:
        kernel(x, chosen, [(adapters, out)])
    for numbers in ([0, -1], [1, 0]):
        chosen.copy_(torch.tensor(numbers))
        out.zero_()
        expected, _ = exact(x, chosen, adapters, out)
        program.run()
        assert torch.allclose(out.double(), expected, atol=1e-5)


def test_the_reference_says_the_same() -> None:
    adapters = adapters_of((3, 0, 9), 20, 12, torch.float32)
    x, chosen, out = torch.randn(6, 20), torch.tensor([2, -1, 0, 1, 2, 0]), torch.randn(6, 12)
    expected, _ = exact(x, chosen, adapters, out)
    low_rank.implementation("reference")(x, chosen, [(adapters, out)])
    assert torch.allclose(out.double(), expected, atol=1e-5)


def test_factors_of_another_shape_or_type_are_refused() -> None:
    pair = LowRankPair(torch.zeros(4, 8), torch.zeros(4, 6), 1.0)
    with pytest.raises(ValueError, match=r"pairs must be \[r, 8\] and \[r, 5\]"):
        LowRank((pair,), 8, 5)
    with pytest.raises(ValueError, match="one type"):
        LowRank((pair, LowRankPair(pair.down.bfloat16(), pair.up.bfloat16(), 1.0)), 8, 6)
