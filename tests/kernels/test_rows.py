"""Rows on their way between ranks: every backend of their ops, Triton's in its interpreter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from triptych.kernels import Op, dequantize_rows, gather_rows, quantize_rows, sum_rows
from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.isa import supported
from triptych.kernels.native.rows import Rows
from triptych.kernels.rows import FP8

F32, BF16 = torch.float32, torch.bfloat16
BACKENDS = ["reference", "triton", *(f"native {isa.name}" for isa in supported())]


def run(op: Op[...], backend: str) -> Callable[..., None]:
    if backend == "triton":
        pytest.importorskip("triton")
        from triptych.kernels.triton import rows

        found: Callable[..., None] = getattr(rows, op.name)
        return found
    if backend == "reference" or op is gather_rows:
        return op.implementation("reference")
    isa = next(isa for isa in supported() if backend.endswith(isa.name))
    try:
        kernel: Callable[..., None] = getattr(Rows(isa), op.name)
    except NotAvailable as error:
        pytest.skip(str(error))
    return kernel


def apart(rows: int, width: int, dtype: torch.dtype, gap: int = 5) -> Tensor:
    """Rows with other bytes between them."""
    return torch.full((rows, width + gap), 77, dtype=torch.uint8 if dtype is FP8 else dtype).view(dtype)[:, :width]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, BF16, torch.uint8])
@pytest.mark.parametrize("width", [1, 48, 1030])
def test_rows_are_looked_up(backend: str, dtype: torch.dtype, width: int) -> None:
    x = torch.randint(0, 200, (7, width)).to(dtype)
    rows = torch.randint(0, 7, (11,))
    out = apart(11, width, dtype)
    run(gather_rows, backend)(x, rows, out)
    assert torch.equal(out, x[rows])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("rows", "width"), [(5, 33), (1, 1100), (0, 8)])
def test_sums_are_weighted_and_in_order(backend: str, dtype: torch.dtype, rows: int, width: int) -> None:
    x, weights = torch.randn(9, width).to(dtype), torch.randn(rows, 4)
    places = torch.randint(0, 9, (rows, 4))
    out = torch.full((rows, width), torch.nan, dtype=dtype)
    run(sum_rows, backend)(x, places, weights, out)
    expected = torch.zeros(rows, width)
    for k in range(4):
        expected += x[places[:, k]].float() * weights[:, k : k + 1]
    torch.testing.assert_close(out, expected.to(dtype), rtol=2e-2 if dtype is BF16 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("form", [torch.int8, FP8])
@pytest.mark.parametrize("width", [1, 64, 700])
def test_eight_bits_are_as_near_as_they_say(backend: str, dtype: torch.dtype, form: torch.dtype, width: int) -> None:
    x = (torch.randn(12, width) * 10 ** torch.empty(12, 1).uniform_(-6, 6)).to(dtype)
    x[3] = 0
    values, scales = apart(12, width, form), torch.empty(12, 3)[:, 1]
    run(quantize_rows, backend)(x, values, scales)
    back = torch.full((12, width), torch.nan)
    run(dequantize_rows, backend)(values, scales, back)
    size, step = x.abs().float(), scales.unsqueeze(1)
    limit = step / 2 if form is torch.int8 else torch.where(size < step / 64, step / 1024, size / 16)
    assert ((back - x.float()).abs() <= limit * (1 + 1e-4)).all()  # of 127 levels a float32 is off by 1e-5 of one
    assert torch.equal(back[3], torch.zeros(width))
    peaks = size.amax(-1)
    torch.testing.assert_close(back.abs().amax(-1), peaks, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("form", [torch.int8, FP8])
def test_rows_of_tiny_numbers_are_zeros(backend: str, dtype: torch.dtype, form: torch.dtype) -> None:
    peaks = torch.tensor([2.0**-149, 1e-37, 1.3e-36, 2.0**-118, 2.0**-117, 1e-30])
    x = peaks.unsqueeze(1) * torch.linspace(-1, 1, 33)
    values, scales, back = torch.empty(6, 33, dtype=form), torch.empty(6), torch.full((6, 33), torch.nan)
    run(quantize_rows, backend)(x.to(dtype), values, scales)
    run(dequantize_rows, backend)(values, scales, back)
    assert torch.equal(back[:4], torch.zeros(4, 33))
    size = peaks[4:, None]
    torch.testing.assert_close(back[4:] / size, x[4:] / size, rtol=0.07, atol=0.005)


@pytest.mark.parametrize("form", [torch.int8, FP8])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_backends_round_alike(backend: str, form: torch.dtype) -> None:
    x = torch.randn(20, 300)
    x[:, 0] = x.abs().amax(-1)
    x[1, 1:200] = torch.arange(199) / 512 * x[1, 0] / 448  # the smallest numbers, and halves of them
    x[2, 0], x[2, 1:256] = 254, torch.arange(255) - 127.0  # halves in int8
    found = []
    for name in ("reference", backend):
        values, scales = torch.empty(20, 300, dtype=form), torch.empty(20)
        run(quantize_rows, name)(x, values, scales)
        found.append((values.view(torch.uint8), scales))
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", [torch.int8, FP8])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_broken_row_stays_broken(backend: str, form: torch.dtype, broken: float) -> None:
    x = torch.randn(3, 40)
    x[1, 7] = broken
    values, scales, back = torch.empty(3, 40, dtype=form), torch.empty(3), torch.zeros(3, 40)
    run(quantize_rows, backend)(x, values, scales)
    run(dequantize_rows, backend)(values, scales, back)
    assert not back[1].isfinite().any()
    assert back[0].isfinite().all()
    assert back[2].isfinite().all()
