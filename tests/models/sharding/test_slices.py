"""Parts of weights of every form stand for parts of their numbers, and are views where that is possible."""

import random

import pytest
import torch
from torch import Tensor

from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, LowRank, LowRankPair, Weight, dequantize
from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.testing import random_blocks
from triptych.models.int8 import pack
from triptych.models.sharding import Columns, Interval, Rows
from triptych.models.sharding.slices import cut_low_rank, cut_weight

KINDS = list(GGUF_BLOCKS)


def int8(outputs: int, inputs: int) -> Int8Weight:
    values, scales = pack(torch.randn(outputs, inputs).numpy())
    return Int8Weight(torch.from_numpy(values), torch.from_numpy(scales), inputs)


def some(total: int, granule: int = 1) -> Interval:
    count = -(-total // granule)
    start, stop = sorted(random.sample(range(count + 1), 2))
    return Interval(start * granule, min(stop * granule, total))


def held(weight: Weight) -> Tensor:
    return weight.blocks if isinstance(weight, GgufWeight) else weight.values


def is_view(part: Weight, whole: Weight) -> bool:
    return held(part).untyped_storage().data_ptr() == held(whole).untyped_storage().data_ptr()


def owned_bytes(part: Weight) -> int:
    return held(part).untyped_storage().nbytes()


@pytest.mark.parametrize("form", ["dense", "int8", *KINDS])
def test_parts_stand_for_parts(form: GgufKind) -> None:
    for _ in range(10):
        outputs = random.randint(2, 90)
        match form:
            case "dense":
                weight: Weight = DenseWeight(torch.randn(outputs, random.randint(2, 200)))
            case "int8":
                weight = int8(outputs, random.randint(2, 200))
            case _:
                weight = random_blocks(form, outputs, 512)
        whole, rows, columns = dequantize(weight), some(outputs), some(weight.inputs)
        assert torch.equal(dequantize(cut_weight(weight, Rows(rows), torch.float32)), whole[rows.slice])
        assert torch.equal(dequantize(cut_weight(weight, Columns(columns), torch.float32)), whole[:, columns.slice])


@pytest.mark.parametrize("form", ["dense", "int8", *KINDS])
def test_rows_are_views_and_columns_are_copies_of_their_own_size(form: GgufKind) -> None:
    match form:
        case "dense":
            weight: Weight = DenseWeight(torch.randn(96, 512))
            granule = 1
        case "int8":
            weight, granule = int8(96, 512), 4
        case _:
            weight, granule = random_blocks(form, 96, 512), GGUF_BLOCKS[form][0]
    rows, columns = cut_weight(weight, Rows(some(96, 16)), torch.float32), Columns(Interval(256, 512))
    assert is_view(rows, weight)
    part = cut_weight(weight, columns, torch.bfloat16)
    assert 512 % granule == 0
    assert type(part) is type(weight)
    assert not is_view(part, weight)
    assert 2 * owned_bytes(part) == owned_bytes(weight)
    everything = cut_weight(weight, Columns(Interval(0, 512)), torch.float32)
    assert is_view(everything, weight), "what is not divided is not copied"


@pytest.mark.parametrize("kind", KINDS)
def test_columns_within_a_block_become_plain_numbers(kind: GgufKind) -> None:
    weight = random_blocks(kind, 20, 512)
    part = cut_weight(weight, Columns(Interval(10, 300)), torch.bfloat16)
    assert isinstance(part, DenseWeight)
    assert part.values.dtype is torch.bfloat16
    assert torch.equal(part.values, dequantize(weight)[:, 10:300].bfloat16())


def test_int8_rows_beside_a_tile_are_laid_out_anew() -> None:
    weight = int8(64, 32)
    part = cut_weight(weight, Rows(Interval(5, 40)), torch.float32)
    assert isinstance(part, Int8Weight)
    assert part.values.shape == (3, 8, 16, 4)
    assert not part.values[2, :, 3:].any(), "zeros beyond the last output"


def test_adapters_are_cut_where_their_projection_is() -> None:
    pair = LowRankPair(torch.randn(4, 50), torch.randn(4, 60), 2.0)
    adapters = LowRank((None, pair), 50, 60)
    product = pair.up.T @ pair.down
    rows, columns = (cut_low_rank(adapters, cut) for cut in (Rows(Interval(10, 30)), Columns(Interval(20, 45))))
    assert [rows.pairs[0], columns.pairs[0]] == [None, None]
    assert (rows.inputs, rows.outputs, columns.inputs, columns.outputs) == (50, 20, 25, 60)
    for cut, expected in ((rows, product[10:30]), (columns, product[:, 20:45])):
        found = cut.pairs[1]
        assert found is not None
        assert found.scale == 2.0
        torch.testing.assert_close(found.up.T @ found.down, expected)
