"""Weights of every form, cut. What is not wanted is not read: pages of a mapped file are touched by copies only.

Rows stay views of the file, which the ranks of a host share. Columns are copied, once, into memory of the rank.
"""

from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, LowRank, LowRankPair, Weight, dequantize
from triptych.kernels.gguf_blocks import GGUF_BLOCKS
from triptych.kernels.weights import INPUT_TILE, OUTPUT_TILE
from triptych.models.sharding.cuts import Columns, Rows
from triptych.models.sharding.intervals import Interval

Slice = Rows | Columns


def cut_tensor(tensor: Tensor, cut: Slice) -> Tensor:
    """A part of plain numbers [O, ...]."""
    match cut:
        case Rows(interval):
            return tensor[interval.slice]
        case Columns(interval):
            return tensor[:, interval.slice].contiguous()
        case _:
            assert_never(cut)


def cut_weight(weight: Weight, cut: Slice, dtype: torch.dtype) -> Weight:
    """A part of a matrix in the form that it has.

    Columns that begin or end within a GGUF block become plain numbers: a part of a block is none.

    Args:
        weight: [O, I].
        cut: Which part.
        dtype: Of plain numbers.
    """
    match weight:
        case DenseWeight(values):
            return DenseWeight(cut_tensor(values, cut))
        case Int8Weight():
            return _int8(weight, cut)
        case GgufWeight():
            return _gguf(weight, cut, dtype)
        case _:
            assert_never(weight)


def cut_low_rank(adapters: LowRank, cut: Slice) -> LowRank:
    """What adapters add to a part of a projection."""
    pairs = tuple(None if pair is None else _pair(pair, cut) for pair in adapters.pairs)
    match cut:
        case Rows(interval):
            return LowRank(pairs, adapters.inputs, interval.size)
        case Columns(interval):
            return LowRank(pairs, interval.size, adapters.outputs)
        case _:
            assert_never(cut)


def _pair(pair: LowRankPair, cut: Slice) -> LowRankPair:
    match cut:
        case Rows(interval):
            return LowRankPair(pair.down, pair.up[:, interval.slice].contiguous(), pair.scale)
        case Columns(interval):
            return LowRankPair(pair.down[:, interval.slice].contiguous(), pair.up, pair.scale)
        case _:
            assert_never(cut)


def _gguf(weight: GgufWeight, cut: Slice, dtype: torch.dtype) -> Weight:
    match cut:
        case Rows(interval):
            return GgufWeight(weight.blocks[interval.slice], weight.kind, weight.inputs)
        case Columns(interval):
            elements, size = GGUF_BLOCKS[weight.kind]
            around = interval.around(elements)
            blocks = weight.blocks[:, around.times(size).slice].contiguous()
            whole = GgufWeight(blocks, weight.kind, around.size * elements)
            if around.times(elements) == interval:
                return whole
            inner = _within(interval, around.times(elements))
            return DenseWeight(dequantize(whole)[:, inner].to(dtype).contiguous())
        case _:
            assert_never(cut)


def _int8(weight: Int8Weight, cut: Slice) -> Int8Weight:
    match cut:
        case Rows(interval):
            around = interval.around(OUTPUT_TILE)
            tiles, scales = weight.values[around.slice], weight.scales[interval.slice]
            if interval.start % OUTPUT_TILE or interval.stop not in (around.stop * OUTPUT_TILE, weight.outputs):
                tiles = _tiled(_rows_of(tiles)[_within(interval, around.times(OUTPUT_TILE))])
            return Int8Weight(tiles, scales, weight.inputs)
        case Columns(interval):
            around = interval.around(INPUT_TILE)
            tiles = weight.values[:, around.slice]
            if interval.start % INPUT_TILE or interval.stop not in (around.stop * INPUT_TILE, weight.inputs):
                tiles = _tiled(_rows_of(tiles)[:, _within(interval, around.times(INPUT_TILE))])
            return Int8Weight(tiles.contiguous(), weight.scales, interval.size)
        case _:
            assert_never(cut)


def _within(interval: Interval, around: Interval) -> slice:
    return slice(interval.start - around.start, interval.stop - around.start)


def _rows_of(tiles: Tensor) -> Tensor:
    """[n · 16, m · 4] of tiles [n, m, 16, 4]."""
    return tiles.transpose(1, 2).reshape(len(tiles) * OUTPUT_TILE, -1)


def _tiled(rows: Tensor) -> Tensor:
    """Tiles of rows [O, I], with zeros beyond them."""
    outputs, inputs = rows.shape
    padded = functional.pad(rows, (0, -inputs % INPUT_TILE, 0, -outputs % OUTPUT_TILE))
    grid = padded.view(-1, OUTPUT_TILE, padded.shape[1] // INPUT_TILE, INPUT_TILE)
    return grid.transpose(1, 2).contiguous()
