"""The order in which a run of sixteen outputs lies in memory in twelve bits a weight, as compact.h reads it."""

from typing import Final

import torch
from torch import Tensor

RUN: Final = 16
"""Outputs whose exponents have a common base, the largest of them as a rule. A weight has a multiple of them."""
_ROWS: Final = 4
"""Of a block."""
_COLUMNS: Final = 32
"""Of a block: as many bfloat16 as the widest registers hold."""
_BYTES: Final = _ROWS * _COLUMNS * 3 // 2
"""A byte for each weight of a block, then the halves of bytes."""
_EIGHTS: Final = 8
"""Numbers of a row that lie together, because instructions that interleave bytes do so for eight of them."""


def packed(signed_mantissas: Tensor, codes: Tensor, inputs: int) -> Tensor:
    """Runs as they lie in memory.

    Args:
        signed_mantissas: [n, 16 · inputs] uint8, the sign above seven bits, in the order of outputs and their inputs.
        codes: Likewise, of four bits.
        inputs: Of a run.

    Returns:
        [n, 24 · inputs] uint8: of each block of 4 rows of 32 signs and mantissas of both pairs of rows, then codes,
        those of the first pair in the low four bits.
    """
    low, high = _in_blocks(codes, inputs).flatten(3).unbind(2)
    return torch.cat([_in_blocks(signed_mantissas, inputs).flatten(2), low | high << 4], 2).flatten(1)


def unpacked(values: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """What `packed` was given."""
    lines = values.view(len(values), -1, _BYTES)
    signed_mantissas, both = lines[..., : _ROWS * _COLUMNS], lines[..., _ROWS * _COLUMNS :]
    return _in_order(signed_mantissas, inputs), _in_order(torch.cat([both & 15, both >> 4], 2), inputs)


def _in_blocks(values: Tensor, inputs: int) -> Tensor:
    """[n, 16 · inputs] → [n, blocks, pairs of rows, fours of a row's eights, rows of a pair, 8]."""
    if _in_tiles(inputs):  # a block is of four outputs, block after block along their inputs
        values = values.view(len(values), RUN // _ROWS, _ROWS, -1, _COLUMNS).transpose(2, 3)
    return values.reshape(len(values), -1, 2, 2, _COLUMNS // _EIGHTS, _EIGHTS).transpose(3, 4)


def _in_order(blocks: Tensor, inputs: int) -> Tensor:
    """[n, blocks, 128], as `_in_blocks` has them → [n, 16 · inputs]."""
    n = len(blocks)
    rows = blocks.reshape(n, -1, 2, _COLUMNS // _EIGHTS, 2, _EIGHTS).transpose(3, 4)
    if _in_tiles(inputs):
        rows = rows.reshape(n, RUN // _ROWS, -1, _ROWS, _COLUMNS).transpose(2, 3)
    return rows.reshape(n, RUN * inputs)


def _in_tiles(inputs: int) -> bool:
    """Otherwise rows of a block are 32 neighbours of the run."""
    return inputs % _COLUMNS == 0
