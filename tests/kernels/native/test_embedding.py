"""Rows of a table in every form, bit for bit as the definition of the form gives them."""

import pytest
import torch

from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.native.embedding import Embedding, accepts
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.team import capture
from triptych.kernels.testing import random_blocks
from triptych.kernels.weights import DenseWeight, Int8Weight, Weight, dequantize

FORMS = ["bfloat16", "float32", "int8", *GGUF_BLOCKS]
GUARD = 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "outputs", "width"), [(1, 49, 576), (37, 33, 64), (3, 1, 32)])
def test_equals_the_definition(isa: Isa, rows: int, outputs: int, width: int, form: str, dtype: torch.dtype) -> None:
    width = -(-width // 256) * 256 if form.endswith("_K") else width
    weight, ids = table(form, outputs, width), torch.randint(outputs, (rows,))
    memory = torch.full((rows + 2, width), GUARD, dtype=dtype)
    out = memory[1:-1].fill_(torch.nan)
    assert accepts(ids, weight, out)
    Embedding(isa)(ids, weight, out)
    assert torch.equal(out, dequantize(weight, ids).to(dtype))
    assert (memory[0] == GUARD).all()
    assert (memory[-1] == GUARD).all()


def test_many_rows_on_any_number_of_threads(isa: Isa, threads: int) -> None:
    weight, ids, out = table("Q4_1", 16, 96), torch.randint(16, (700,)), torch.full((700, 96), torch.nan)
    Embedding(isa)(ids, weight, out)
    assert torch.equal(out, dequantize(weight, ids))


@pytest.mark.parametrize("form", ["bfloat16", "float32", "int8"])
@pytest.mark.parametrize("width", [1, 3, 17, 47])
def test_odd_widths(isa: Isa, form: str, width: int) -> None:
    weight, ids, out = table(form, 21, width), torch.randint(21, (5,)), torch.full((5, width), torch.nan)
    Embedding(isa)(ids, weight, out)
    assert torch.equal(out, dequantize(weight, ids))


@pytest.mark.parametrize("form", FORMS)
def test_ids_out_of_range_read_nothing_outside(isa: Isa, form: str) -> None:
    width = 256 if form.endswith("_K") else 32
    weight, out = table(form, 5, width), torch.full((4, width), torch.nan)
    Embedding(isa)(torch.tensor([-1, 5, 2**62, -(2**62)]), weight, out)
    assert torch.equal(out, dequantize(weight, torch.tensor([0, 4, 4, 0])))


def test_a_recorded_call_reads_the_ids_of_its_run(isa: Isa) -> None:
    weight, ids, out = table("bfloat16", 50, 48), torch.zeros(6, dtype=torch.int64), torch.empty(6, 48)
    with capture() as program:
        Embedding(isa)(ids, weight, out)
    for _ in range(2):
        ids.copy_(torch.randint(50, (6,)))
        program.run()
        assert torch.equal(out, dequantize(weight, ids))


def test_refuses_what_it_cannot_read() -> None:
    ids, out = torch.zeros(2, dtype=torch.int64), torch.empty(2, 32)
    assert not accepts(ids, DenseWeight(torch.randn(4, 32).half()), out)
    assert not accepts(ids, DenseWeight(torch.randn(32, 4).T), out)
    assert not accepts(ids, DenseWeight(torch.randn(4, 32)), out.half())
    assert not accepts(ids.int(), DenseWeight(torch.randn(4, 32)), out)


def table(form: str, outputs: int, width: int) -> Weight:
    if form in ("bfloat16", "float32"):
        return DenseWeight(torch.randn(outputs, width).to(getattr(torch, form)))
    if form == "int8":
        tiles = (-(-outputs // 16), -(-width // 4), 16, 4)
        values = torch.randint(-127, 128, tiles, dtype=torch.int8)
        return Int8Weight(values, torch.rand(outputs), width)
    kind: GgufKind = form  # type: ignore[assignment]
    return random_blocks(kind, outputs, width, scale=1.0)
