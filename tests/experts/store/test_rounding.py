"""Rounded experts are off by at most half a level of their row or block, and are expanded into the exact layout."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.support.random_experts import draw, make, same
from triptych.core.errors import InvalidArgument
from triptych.experts.blob import BlobLayout, Expert, Matrix
from triptych.experts.settings import Rounding
from triptych.experts.store import expand, expand_section, open_store, read_blob, rounded, rounded_layout
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, dequantize

BOTH = get_args(Rounding)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("to", BOTH)
def test_no_value_is_off_by_more_than_half_a_level(to: Rounding, dtype: str, bias: bool) -> None:
    expert = draw(dtype, 61, 37, bias=bias)

    for exact, coarse in zip(expert, expanded(expert, to), strict=True):
        values = plain(exact)
        ulp = torch.finfo(getattr(torch, dtype)).eps * values.abs().amax(1, keepdim=True)
        assert ((plain(coarse) - values).abs() <= LEVELS[to](values) * 0.5005 + ulp).all()
        assert (exact.bias is None) == (coarse.bias is None)
        assert exact.bias is None or coarse.bias is None or torch.equal(exact.bias, coarse.bias)


@pytest.mark.parametrize("largest", [2.0**-30, 1e-6, 1e-4, 4e5])
def test_four_bits_have_the_precision_of_their_scale_and_its_range(largest: float) -> None:
    """Below 2^-14 a float16 is off by up to 2^-25, which its largest level is off by seven times."""
    expert = _scaled(draw("float32", 61, 37), largest)

    for exact, coarse in zip(expert, expanded(expert, "int4"), strict=True):
        values = plain(exact)
        assert ((plain(coarse) - values).abs() <= _of_blocks(values) * 0.5005 + 7 * 2.0**-25).all()


def test_weights_that_four_bits_have_no_scale_for_are_refused() -> None:
    expert = _scaled(draw("float32"), 5e5)
    with pytest.raises(InvalidArgument, match="takes weights below 458,528 in magnitude, got 500,000") as refused:
        rounded(expert, "int4")
    assert refused.value.field == "experts.lossy"


def test_a_row_of_zeros_stays_one() -> None:
    expert = draw("float32")
    plain(expert[0])[3] = 0

    coarse = rounded(expert, "int8")[0].weight

    assert isinstance(coarse, Int8Weight)
    assert coarse.scales[3] == 0
    assert not coarse.values[0, :, 3].any()
    assert not plain(expanded(expert, "int4")[0])[3].any()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("to", BOTH)
def test_sections_are_expanded_one_by_one_as_all_of_it(to: Rounding, bias: bool) -> None:
    expert = draw("bfloat16", 61, 37, bias=bias)
    exact, coarse = BlobLayout.of(expert), rounded_layout(BlobLayout.of(expert), to)
    source = torch.zeros(coarse.nbytes, dtype=torch.uint8)
    coarse.pack(rounded(expert, to), source)
    whole, pieces = (torch.full((exact.nbytes,), 0xFF, dtype=torch.uint8) for _ in range(2))

    expand(coarse.view(source), exact, whole)
    for given, made in zip(coarse.sections, exact.sections, strict=True):
        expand_section(given, made, given.of(source).clone(), made.of(pieces))

    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("biased", ["exact", "rounded"])
def test_a_bias_that_only_one_form_has_is_not_left_out_in_silence(biased: str) -> None:
    with_bias, without = draw("bfloat16", bias=True), draw("bfloat16")
    exact, coarse = (with_bias, without) if biased == "exact" else (without, with_bias)
    layout = BlobLayout.of(exact)
    with pytest.raises(AssertionError, match="has a bias, or neither"):
        expand(rounded(coarse, "int8"), layout, torch.empty(layout.nbytes, dtype=torch.uint8))


def test_rounded_experts_take_half_or_a_quarter_of_the_bytes_and_their_layout_needs_no_expert(tmp_path: Path) -> None:
    made = make(tmp_path / "pack", ("bfloat16", 2))
    wide, exact = BlobLayout.of(draw("bfloat16", 512, 256)), made.store.layers[0].layout

    assert rounded_layout(wide, "int8").nbytes < 0.52 * wide.nbytes
    assert rounded_layout(wide, "int4").nbytes == 4.5 / 16 * wide.nbytes
    for to in BOTH:
        assert rounded_layout(exact, to) == BlobLayout.of(rounded(made.experts[0, 1], to))


def test_blocks_of_rows_that_are_whole_ones_are_those_of_a_gguf_file() -> None:
    gate = draw("bfloat16", 64, 40)[0]

    coarse = rounded((gate, gate, gate), "int4")[0].weight

    assert isinstance(coarse, GgufWeight)
    rows = GgufWeight(coarse.blocks.view(40, -1), coarse.kind, 64)
    assert torch.equal(plain(expanded((gate, gate, gate), "int4")[0]), dequantize(rows).bfloat16().float())


@pytest.mark.parametrize("form", ["int8", "Q4_0"])
def test_a_file_of_them_is_as_any_other(tmp_path: Path, form: str) -> None:
    coarse = make(tmp_path / "pack", (form, 2))

    store = open_store(coarse.path)

    assert store.rounded is None
    assert same(store.layers[0].layout.view(read_blob(store, 0, 1)), coarse.experts[0, 1])


@pytest.mark.parametrize("form", ["int8", "Q4_0"])
@pytest.mark.parametrize("to", BOTH)
def test_what_is_rounded_already_is_refused(to: Rounding, form: str) -> None:
    with pytest.raises(InvalidArgument, match="rounded already") as refused:
        rounded(draw(form), to)
    assert refused.value.field == "experts.lossy"


def expanded(expert: Expert, to: Rounding) -> Expert:
    layout = BlobLayout.of(expert)
    blob = torch.randint(0, 256, (layout.nbytes,), dtype=torch.uint8)
    expand(rounded(expert, to), layout, blob)
    return layout.view(blob)


def plain(matrix: Matrix) -> Tensor:
    """[O, I] float32; of float32 the matrix's own."""
    assert isinstance(matrix.weight, DenseWeight)
    return matrix.weight.values.float()


def _scaled(expert: Expert, largest: float) -> Expert:
    """The same with this largest magnitude in each matrix."""
    for matrix in expert:
        values = plain(matrix)
        values *= largest / values.abs().amax()
    return expert


def _of_rows(values: Tensor) -> Tensor:
    return values.abs().amax(1, keepdim=True) / 127


def _of_blocks(values: Tensor) -> Tensor:
    """[O, I]: the level of each value."""
    blocks = functional.pad(values.flatten(), (0, -values.numel() % 32)).view(-1, 32)
    levels = (blocks.abs().amax(1) / 7).repeat_interleave(32)
    return levels[: values.numel()].view_as(values)


LEVELS: dict[Rounding, Callable[[Tensor], Tensor]] = {"int8": _of_rows, "int4": _of_blocks}
