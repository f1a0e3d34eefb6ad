"""Projections by plain weights against float64, on every instruction set."""

import random

import pytest
import torch
from torch import Tensor

from triptych.kernels.native import team
from triptych.kernels.native.dense import Dense
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.linear import Linear
from triptych.kernels.weights import DenseWeight

DTYPES = (torch.bfloat16, torch.float32)
ROWS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 17, 33, 48, 49, 70)
POISON = 3.0


@pytest.fixture(params=DTYPES, ids=["bf16", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture(scope="module")
def dense(isa: Isa) -> Dense:
    return Dense(isa)


def guarded(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """An output full of NaN, and the memory that it lies in, with rows before and behind it."""
    memory = torch.full((rows + 2, columns), POISON, dtype=dtype)
    memory[1:-1] = torch.nan
    return memory[1:-1], memory


def untouched(memory: Tensor) -> bool:
    return bool((memory[0] == POISON).all() and (memory[-1] == POISON).all())


def error(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> float:
    """The largest error in units of the sum of the products' sizes."""
    added = torch.zeros(weight.shape[0]) if bias is None else bias
    exact = x.double() @ weight.double().T + added.double()
    size = x.double().abs() @ weight.double().abs().T + added.double().abs()
    assert not result.isnan().any()
    return float(((result.double() - exact).abs() / size.clamp(min=1e-30)).max()) if result.numel() else 0.0


def tolerance(*dtypes: torch.dtype) -> float:
    return 2**-8 if torch.bfloat16 in dtypes else 3e-6


def random_size(most: int) -> int:
    return random.randint(1, most)


@pytest.mark.parametrize("rows", ROWS)
def test_three_projections_equal_float64(dense: Dense, dtype: torch.dtype, rows: int, seed: int) -> None:
    random.seed(seed)
    inputs = random.choice((1, 31, 32, 33, 64, 97, 576, random_size(300)))
    x = torch.randn(rows, inputs, dtype=dtype)
    outs = (dtype, torch.float32, dtype)
    weights = [torch.randn(random_size(150), inputs, dtype=dtype) for _ in outs]
    biases = [torch.randn(len(weights[0]), dtype=dtype), None, torch.randn(len(weights[2]), dtype=dtype)]
    results = [guarded(rows, len(weight), out) for weight, out in zip(weights, outs, strict=True)]
    parts = tuple(zip(map(DenseWeight, weights), biases, (out for out, _ in results), strict=True))
    dense.project(x, parts)
    for weight, bias, (out, memory) in zip(weights, biases, results, strict=True):
        assert untouched(memory)
        assert error(out, x, weight, bias) < tolerance(dtype, out.dtype)


@pytest.mark.parametrize("rows", [1, 8, 20])
@pytest.mark.parametrize("inputs", [2049, 16384, 30000])
def test_wide_rows(dense: Dense, dtype: torch.dtype, rows: int, inputs: int) -> None:
    x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(19, inputs, dtype=dtype)
    out, memory = guarded(rows, 19, dtype)
    dense.project(x, ((DenseWeight(weight), None, out),))
    assert untouched(memory)
    assert error(out, x, weight) < tolerance(dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_the_gated_unit_equals_float64(dense: Dense, dtype: torch.dtype, rows: int, seed: int) -> None:
    random.seed(seed)
    inputs, features = random_size(200), random_size(150)
    x = torch.randn(rows, inputs, dtype=dtype)
    gate, up = (torch.randn(features, inputs, dtype=dtype) / inputs**0.5 for _ in range(2))
    out, memory = guarded(rows, features, dtype)
    dense.gated(x, DenseWeight(gate), DenseWeight(up), out)
    gated, factor = x.double() @ gate.double().T, x.double() @ up.double().T
    exact = gated * gated.sigmoid() * factor
    assert untouched(memory)
    assert not out.isnan().any()
    limit = 2**-7 if dtype is torch.bfloat16 else 1e-5
    assert ((out.double() - exact).abs() <= limit * (1 + exact.abs())).all()


@pytest.mark.parametrize("rows", [0, 1, 7, 11, 12, 49])
@pytest.mark.parametrize("outputs", [1, 15, 2100])
def test_the_greedy_head_finds_the_largest_output(dense: Dense, dtype: torch.dtype, rows: int, outputs: int) -> None:
    inputs = 70
    x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    logits, _ = guarded(rows, outputs, torch.float32)
    dense.project(x, ((DenseWeight(weight), None, logits),))
    ids, values = torch.full((rows,), -7), torch.full((rows,), torch.nan)
    dense.argmax(x, DenseWeight(weight), ids, values)
    assert torch.equal(values, logits.max(dim=1).values if rows else values)
    assert torch.equal(ids, logits.argmax(dim=1))


@pytest.mark.parametrize("rows", [1, 20])
def test_of_equal_outputs_the_first_is_taken(dense: Dense, dtype: torch.dtype, rows: int) -> None:
    weight = torch.zeros(2000, 8, dtype=dtype)
    weight[[1700, 33, 640]] = 1
    ids, values = torch.full((rows,), -7), torch.full((rows,), torch.nan)
    dense.argmax(torch.ones(rows, 8, dtype=dtype), DenseWeight(weight), ids, values)
    assert ids.tolist() == [33] * rows
    assert values.tolist() == [8] * rows


@pytest.mark.parametrize("rows", [2, 20])
def test_nan_stays_in_its_row_and_is_never_the_largest(dense: Dense, dtype: torch.dtype, rows: int) -> None:
    x = torch.ones(rows, 33, dtype=dtype)
    x[1] = torch.nan
    weight = DenseWeight(torch.arange(40.0).unsqueeze(1).expand(40, 33).to(dtype).contiguous())
    out = torch.zeros(rows, 40, dtype=dtype)
    dense.project(x, ((weight, None, out),))
    assert out[1].isnan().all()
    assert not out[[i for i in range(rows) if i != 1]].isnan().any()
    ids, values = torch.full((rows,), -7), torch.full((rows,), torch.nan)
    dense.argmax(x, weight, ids, values)
    assert ids.tolist() == [39, 0, *[39] * (rows - 2)]
    assert values[1] == -torch.inf


def test_memory_that_is_aligned_to_an_element_only(dense: Dense, dtype: torch.dtype) -> None:
    for rows in (3, 20):
        x, weight = (torch.randn(n * 45 + 1, dtype=dtype)[1:].view(n, 45) for n in (rows, 21))
        out = torch.full((rows * 21 + 1,), torch.nan, dtype=dtype)[1:].view(rows, 21)
        dense.project(x, ((DenseWeight(weight), None, out),))
        assert error(out, x, weight) < tolerance(dtype)


@pytest.mark.parametrize("few", [True, False], ids=["few rows", "many rows"])
def test_a_row_has_the_same_result_whatever_is_computed_beside_it(
    dense: Dense, dtype: torch.dtype, few: bool
) -> None:
    counts = range(1, 12) if few else (12, 16, 40, 70)
    x, weight = torch.randn(max(counts), 203, dtype=dtype), DenseWeight(torch.randn(77, 203, dtype=dtype))
    outs = [torch.empty(count, 77, dtype=dtype) for count in counts]
    for out in outs:
        dense.project(x[: len(out)], ((weight, None, out),))
    assert all(torch.equal(out, outs[-1][: len(out)]) for out in outs)


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_threads_change_nothing(dense: Dense, threads: int, dtype: torch.dtype, rows: int) -> None:
    x, weight = torch.randn(rows, 256, dtype=dtype), DenseWeight(torch.randn(1000, 256, dtype=dtype))
    shared, alone, replayed = (torch.empty(rows, 1000, dtype=dtype) for _ in range(3))
    dense.project(x, ((weight, None, shared),))
    with team.capture() as program:
        dense.project(x, ((weight, None, replayed),))
    program.run()
    team.resize(1)
    dense.project(x, ((weight, None, alone),))
    assert torch.equal(shared, alone)
    assert torch.equal(replayed, alone)


def test_what_the_kernels_refuse(isa: Isa) -> None:
    ops = Linear(isa)
    x, weight, out = torch.randn(3, 8), DenseWeight(torch.randn(6, 8)), torch.zeros(3, 6)
    half = DenseWeight(weight.values.bfloat16())
    strided = DenseWeight(torch.randn(8, 6).T)
    assert ops.takes_linear(x, weight, None, out)
    assert ops.takes_linear(x.bfloat16(), half, None, out)
    assert not ops.takes_linear(x, half, None, out)
    assert not ops.takes_linear(x, strided, None, out)
    assert not ops.takes_linear(x.double(), weight, None, out)
    assert not ops.takes_linear(x, weight, torch.zeros(12)[::2], out)
    assert not ops.takes_linear(x, weight, None, out.bfloat16())
    assert not ops.takes_linear(x, weight, None, torch.zeros(3, 12)[:, ::2])
    assert not ops.takes_linear(torch.randn(8, 3).T, weight, None, out)
    assert not ops.takes_linears(x, ((weight, None, out), (strided, None, out)))
    assert not ops.takes_gated_linear(x, weight, strided, out)
    assert not ops.takes_linear_argmax(x, strided, torch.zeros(3, dtype=torch.int64), torch.zeros(3))


def test_more_projections_than_one_call_takes(isa: Isa) -> None:
    x = torch.randn(4, 24)
    weights = [DenseWeight(torch.randn(random_size(20), 24)) for _ in range(9)]
    outs = [torch.full((4, weight.outputs), torch.nan) for weight in weights]
    Linear(isa).linears(x, tuple((weight, None, out) for weight, out in zip(weights, outs, strict=True)))
    assert all(error(out, x, weight.values) < 3e-6 for weight, out in zip(weights, outs, strict=True))
