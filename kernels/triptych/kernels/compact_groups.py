"""The order in which a run of sixteen outputs lies in memory in twelve bits a weight, as compact.h reads it."""

from typing import Final

import torch
from torch import Tensor

ROWS: Final = 4
"""Of a group."""
COLUMNS: Final = 32
"""Of a group: as many bfloat16 as the widest registers hold."""
GROUP_BYTES: Final = ROWS * COLUMNS * 3 // 2
"""A byte for each weight, then the halves of bytes."""
_RUN: Final = 16
_EIGHTS: Final = 8
"""Numbers of a row that lie together, because instructions that interleave bytes do so for eight of them."""


def packed(signs: Tensor, codes: Tensor, inputs: int) -> Tensor:
    """Runs as they lie in memory.

    Args:
        signs: [n, 16 · inputs] uint8, in the order of outputs and their inputs.
        codes: Likewise, of four bits.
        inputs: Of a run.

    Returns:
        [n, 24 · inputs] uint8: of each group of 4 rows of 32 the signs of both pairs of rows, then codes, the
        first pair's in the low four bits.
    """
    low, high = _grouped(codes, inputs).flatten(3).unbind(2)
    return torch.cat([_grouped(signs, inputs).flatten(2), low | high << 4], 2).flatten(1)


def unpacked(values: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """What `packed` was given."""
    lines = values.view(len(values), -1, GROUP_BYTES)
    signs, both = lines[..., : ROWS * COLUMNS], lines[..., ROWS * COLUMNS :]
    return _in_order(signs, inputs), _in_order(torch.cat([both & 15, both >> 4], 2), inputs)


def _grouped(values: Tensor, inputs: int) -> Tensor:
    """[n, 16 · inputs] → [n, groups, pairs of rows, fours of a row's eights, rows of a pair, 8]."""
    if _in_tiles(inputs):  # a group is of four outputs, group after group along their inputs
        values = values.view(len(values), _RUN // ROWS, ROWS, -1, COLUMNS).transpose(2, 3)
    return values.reshape(len(values), -1, 2, 2, COLUMNS // _EIGHTS, _EIGHTS).transpose(3, 4)


def _in_order(groups: Tensor, inputs: int) -> Tensor:
    """[n, groups, 128], as `_grouped` has them → [n, 16 · inputs]."""
    n = len(groups)
    rows = groups.reshape(n, -1, 2, COLUMNS // _EIGHTS, 2, _EIGHTS).transpose(3, 4)
    if _in_tiles(inputs):
        rows = rows.reshape(n, _RUN // ROWS, -1, ROWS, COLUMNS).transpose(2, 3)
    return rows.reshape(n, _RUN * inputs)


def _in_tiles(inputs: int) -> bool:
    """Otherwise rows of a group are 32 neighbours of the run."""
    return inputs % COLUMNS == 0
