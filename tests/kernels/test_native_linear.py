"""The C++ kernel against float64."""

import secrets

import pytest
import torch
from torch import Tensor

from triptych.kernels import DenseWeight, Weight, linear
from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.linear import MAX_ROWS, native_linear

REFERENCE = linear.implementation("reference")


@pytest.fixture(scope="module")
def kernel() -> object:
    try:
        return native_linear(REFERENCE)
    except NotAvailable as error:
        pytest.skip(str(error))


def refuse(x: Tensor, /, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
    raise AssertionError("the reference was asked")


@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
@pytest.mark.parametrize(("inner", "outer"), [(576, 1536), (32, 1), (31, 3), (1, 5), (97, 66), (1536, 577)])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_float64_for_odd_sizes(kernel: object, rows: int, inner: int, outer: int, biased: bool) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).bfloat16() for shape in ((rows, inner), (outer, inner), (outer,))
    )
    out = torch.full((rows, outer), torch.nan, dtype=torch.bfloat16)
    native_linear(refuse)(x, DenseWeight(weight), bias if biased else None, out)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0.0)
    scale = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    assert ((out.double() - exact).abs() / scale).max() < 2**-8


def test_writes_nothing_beside_its_output(kernel: object) -> None:
    x, weight = torch.randn(3, 40).bfloat16(), torch.randn(7, 40).bfloat16()
    memory = torch.full((5, 7), 3.0, dtype=torch.bfloat16)
    native_linear(refuse)(x, DenseWeight(weight), None, memory[1:4])
    assert (memory[0] == 3).all()
    assert (memory[4] == 3).all()


@pytest.mark.parametrize("case", ["many rows", "no rows", "float32", "strided weight", "strided output"])
def test_other_shapes_and_types_go_to_the_reference(kernel: object, case: str) -> None:
    rows = {"many rows": MAX_ROWS + 1, "no rows": 0}.get(case, 2)
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    weight = torch.randn(6, 8).to(dtype)
    weight = torch.randn(8, 6).to(dtype).T if case == "strided weight" else weight
    x, out = torch.randn(rows, 8).to(dtype), torch.zeros(rows, 12, dtype=dtype)[:, ::2]
    out = out if case == "strided output" else out.contiguous()
    asked: list[int] = []
    native_linear(lambda x, /, weight, bias, out: asked.append(len(x)))(x, DenseWeight(weight), None, out)
    assert asked == [rows]


def test_nan_stays_nan(kernel: object) -> None:
    x, weight = torch.full((1, 8), torch.nan).bfloat16(), torch.ones(2, 8).bfloat16()
    out = torch.zeros(1, 2, dtype=torch.bfloat16)
    native_linear(refuse)(x, DenseWeight(weight), None, out)
    assert out.isnan().all()
