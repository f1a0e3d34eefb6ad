"""Projections by int8 weights and GGUF blocks against float64, on every instruction set."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.native import team
from triptych.kernels.native.gguf import Gguf
from triptych.kernels.native.int8 import Int8
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.linear import Linear
from triptych.kernels.native.projection import ProjectionKernels
from triptych.kernels.testing import random_blocks
from triptych.kernels.weights import Int8Weight, Weight, dequantize

ROWS = (0, 1, 2, 3, 5, 8, 9, 16, 17, 33, 48, 50, 100)
POISON = 3.0


def in_blocks_of_32(x: Tensor) -> Tensor:
    """bfloat16 rows as the kernels see them: 8 bits and a scale for every 32 numbers, all in float32; float64."""
    blocks = x.float().view(-1, x.shape[1] // 32, 32)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(largest > 0, torch.tensor(127.0) / largest, 0)
    return (torch.round(blocks * inverse).double() * (largest / 127).double()).view(x.shape)


def int8_weight(outputs: int, inputs: int) -> Int8Weight:
    """Random numbers in all places that belong to the weight, zeros elsewhere."""
    tiles, words = -(-outputs // 16), -(-inputs // 4)
    plain = torch.zeros(tiles * 16, words * 4, dtype=torch.int8)
    plain[:outputs, :inputs] = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    values = plain.view(tiles, 16, words, 4).transpose(1, 2).contiguous()
    return Int8Weight(values, torch.rand(outputs) / 127, inputs)


def as_unsigned_bytes(x: Tensor) -> Tensor:
    """Rows as the int8 kernels see them: bytes with a scale and a zero point for every 64, in float32; float64."""
    rows, inputs = x.shape
    wide = functional.pad(x.float(), (0, -inputs % 64)).view(rows, -(-inputs // 64), 64)
    least, most = wide.amin(dim=2, keepdim=True).clamp(max=0), wide.amax(dim=2, keepdim=True).clamp(min=0)
    scale = most / torch.tensor(255.0) - least / torch.tensor(255.0)
    inverse = torch.where(scale > 0, torch.tensor(1.0) / scale, 0)
    zero = torch.round(-least * inverse).clamp(0, 255)
    seen = (torch.round(wide * inverse) + zero).clamp(0, 255).sub(zero).double() * scale.double()
    return seen.flatten(1)[:, :inputs]


@dataclass(frozen=True)
class Case:
    """One form of weight.

    Attributes:
        form: Its kernels.
        make: A weight [O, I].
        sees: x [T, I] as the kernels see it, float64.
        inputs: Sizes of I.
    """

    form: Callable[[Isa], ProjectionKernels[Any]]
    make: Callable[[int, int], Weight]
    sees: Callable[[Tensor], Tensor]
    inputs: Sequence[int]

    def seen(self, x: Tensor) -> Tensor:
        return self.sees(x)


def gguf_case(kind: GgufKind) -> Case:
    together = GGUF_BLOCKS[kind][0] == 256
    scale = 0.002 if together else 0.1  # of blocks whose parts have scales of their own, up to 127
    return Case(
        Gguf,
        lambda outputs, inputs: random_blocks(kind, outputs, inputs, scale),
        lambda x: in_blocks_of_32(x) if x.dtype is torch.bfloat16 else x.double(),
        (256, 512, 768) if together else (32, 64, 96, 128, 160, 576),
    )


CASES: dict[str, Case] = {kind: gguf_case(kind) for kind in GGUF_BLOCKS}
CASES["int8"] = Case(Int8, int8_weight, as_unsigned_bytes, (1, 3, 4, 31, 63, 64, 65, 100, 128, 130, 576))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


FEW = pytest.mark.parametrize("case", ["Q4_1", "Q6_K", "int8"], indirect=True)
"""For what the forms share."""


@pytest.fixture
def kernels(case: Case, isa: Isa) -> ProjectionKernels[Any]:
    return case.form(isa)


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


def guarded(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """An output full of NaN, and the memory that it lies in, with rows before and behind it."""
    memory = torch.full((rows + 2, columns), POISON, dtype=dtype)
    memory[1:-1] = torch.nan
    return memory[1:-1], memory


def untouched(memory: Tensor) -> bool:
    return bool((memory[0] == POISON).all() and (memory[-1] == POISON).all())


def error(result: Tensor, x: Tensor, weight: Weight, bias: Tensor | None = None) -> float:
    """The largest error in units of the sum of the products' sizes; x is what the kernel sees."""
    exact_weight = dequantize(weight).double()
    added = torch.zeros(weight.outputs) if bias is None else bias
    exact = x @ exact_weight.T + added.double()
    size = x.abs() @ exact_weight.abs().T + added.double().abs()
    assert not result.isnan().any()
    return float(((result.double() - exact).abs() / size.clamp(min=1e-30)).max()) if result.numel() else 0.0


def tolerance(dtype: torch.dtype) -> float:
    return 2**-8 if dtype is torch.bfloat16 else 3e-6


@pytest.mark.parametrize("rows", ROWS)
def test_three_projections_equal_float64(
    kernels: ProjectionKernels[Any], case: Case, dtype: torch.dtype, rows: int, seed: int
) -> None:
    random.seed(seed)
    inputs = random.choice(case.inputs)
    x = torch.randn(rows, inputs, dtype=dtype)
    outs = (dtype, torch.float32, dtype)
    weights = [case.make(random.randint(1, 150), inputs) for _ in outs]
    biases = [torch.randn(weights[0].outputs, dtype=dtype), None, torch.randn(weights[2].outputs, dtype=dtype)]
    results = [guarded(rows, weight.outputs, out) for weight, out in zip(weights, outs, strict=True)]
    kernels.project(x, tuple(zip(weights, biases, (out for out, _ in results), strict=True)))
    for weight, bias, (out, memory) in zip(weights, biases, results, strict=True):
        assert untouched(memory)
        assert error(out, case.seen(x), weight, bias) < tolerance(out.dtype)


@pytest.mark.parametrize("rows", [1, 8, 20])
def test_the_gated_unit_equals_float64(
    kernels: ProjectionKernels[Any], case: Case, dtype: torch.dtype, rows: int, seed: int
) -> None:
    random.seed(seed)
    inputs, features = random.choice(case.inputs), random.randint(1, 100)
    x = torch.randn(rows, inputs, dtype=dtype) / inputs
    gate, up = case.make(features, inputs), case.make(features, inputs)
    out, memory = guarded(rows, features, dtype)
    kernels.gated(x, gate, up, out)
    gated, factor = (case.seen(x) @ dequantize(weight).double().T for weight in (gate, up))
    exact = gated * gated.sigmoid() * factor
    assert untouched(memory)
    assert not out.isnan().any()
    limit = 2**-7 if dtype is torch.bfloat16 else 1e-5
    assert ((out.double() - exact).abs() <= limit * (1 + exact.abs())).all()


@FEW
@pytest.mark.parametrize("rows", [0, 1, 8, 20, 50])
@pytest.mark.parametrize("outputs", [1, 15, 700, 2100])
def test_the_greedy_head_finds_the_largest_output(
    kernels: ProjectionKernels[Any], case: Case, dtype: torch.dtype, rows: int, outputs: int
) -> None:
    inputs = max(64, min(case.inputs))
    x, weight = torch.randn(rows, inputs, dtype=dtype), case.make(outputs, inputs)
    logits, _ = guarded(rows, outputs, torch.float32)
    kernels.project(x, ((weight, None, logits),))
    ids, values = torch.full((rows,), -7), torch.full((rows,), torch.nan)
    kernels.argmax(x, weight, ids, values)
    assert torch.equal(values, logits.max(dim=1).values if rows else values)
    assert torch.equal(ids, logits.argmax(dim=1))


@FEW
@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e25])
def test_rows_of_extreme_sizes(
    kernels: ProjectionKernels[Any], case: Case, dtype: torch.dtype, rows: int, scale: float
) -> None:
    inputs = max(96, min(case.inputs))
    x, weight = torch.randn(rows, inputs).mul_(scale).to(dtype), case.make(33, inputs)
    x[1] = 0
    x[2, ::7] *= 100
    out, _ = guarded(rows, 33, torch.float32)
    kernels.project(x, ((weight, None, out),))
    assert error(out, case.seen(x), weight) < 3e-6
    assert (out[1] == 0).all()


@FEW
@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row(
    kernels: ProjectionKernels[Any], case: Case, dtype: torch.dtype, rows: int, value: float
) -> None:
    inputs = max(96, min(case.inputs))
    x, weight = torch.randn(rows, inputs, dtype=dtype), case.make(40, inputs)
    x[1, 37] = value
    out, memory = guarded(rows, 40, dtype)
    kernels.project(x, ((weight, None, out),))
    others = [row for row in range(rows) if row != 1]
    assert not out[1].isfinite().any()
    assert out[others].isfinite().all()
    assert untouched(memory)


@FEW
@pytest.mark.parametrize("rows", [1, 8, 100])
def test_threads_and_replay_change_nothing(
    kernels: ProjectionKernels[Any], case: Case, threads: int, dtype: torch.dtype, rows: int
) -> None:
    inputs = max(128, min(case.inputs))
    x, weight = torch.randn(rows, inputs, dtype=dtype), case.make(1000, inputs)
    shared, alone, replayed = (torch.full((rows, 1000), torch.nan, dtype=dtype) for _ in range(3))
    kernels.project(x, ((weight, None, shared),))
    with team.capture() as program:
        kernels.project(x.neg(), ((weight, None, torch.empty_like(replayed)),))
        kernels.project(x, ((weight, None, replayed),))
    program.run()
    team.resize(1)
    kernels.project(x, ((weight, None, alone),))
    assert torch.equal(shared, alone)
    assert torch.equal(replayed, alone)


def test_kinds_of_block_mix_in_one_call(isa: Isa) -> None:
    x, kinds = torch.randn(3, 256), (*GGUF_BLOCKS, "Q4_1")
    weights = [random_blocks(kind, 20, 256) for kind in kinds]
    outs = [torch.full((3, 20), torch.nan) for _ in weights]
    Linear(isa).linears(x, tuple((weight, None, out) for weight, out in zip(weights, outs, strict=True)))
    assert all(error(out, x.double(), weight) < 3e-6 for weight, out in zip(weights, outs, strict=True))


def test_gates_of_two_kinds_go_to_the_reference(isa: Isa) -> None:
    ops, x = Linear(isa), torch.randn(3, 64)
    gate, up = random_blocks("Q4_1", 20, 64), random_blocks("Q8_0", 20, 64)
    assert not ops.takes_gated_linear(x, gate, up, torch.empty(3, 20))
    assert ops.takes_gated_linear(x, gate, gate, torch.empty(3, 20))
