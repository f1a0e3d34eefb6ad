"""The form in which rows travel between the ranks that divide experts."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.kernels import dequantize_rows, quantize_rows
from triptych.kernels.rows import FP8
from triptych.parallel.mesh import Payload

ALIGNED = 16
"""Bytes that the parts of a record are multiples of: what a GPU reads at once."""
_WORD = 4


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows of one kind become bytes: their numbers, and behind them the scale where there is one.

    Attributes:
        payload: What becomes of the numbers.
        dtype: Of the rows.
        width: H, numbers of a row.
    """

    payload: Payload
    dtype: torch.dtype
    width: int

    @property
    def nbytes(self) -> int:
        """Of a packed row."""
        return aligned(self._scale_at + (0 if self.payload == "plain" else _WORD))

    def pack(self, x: Tensor) -> Tensor:
        """Rows x [n, H], contiguous, as [n, nbytes] uint8; of plain ones a view where that comes out even."""
        if self.payload == "plain" and self.nbytes == self._numbers_bytes:
            return x.view(torch.uint8)
        packed = torch.zeros(len(x), self.nbytes, dtype=torch.uint8, device=x.device)
        if self.payload == "plain":
            self._numbers(packed).copy_(x)
        elif len(x):
            quantize_rows(x, self._numbers(packed), self._scales(packed))
        return packed

    def unpack(self, packed: Tensor) -> Tensor:
        """The rows [n, H] of [n, nbytes] uint8, whose rows may lie apart; plain ones are a view."""
        if self.payload == "plain":
            return self._numbers(packed)
        rows = torch.empty(len(packed), self.width, dtype=self.dtype, device=packed.device)
        if len(packed):
            dequantize_rows(self._numbers(packed), self._scales(packed), rows)
        return rows

    def _numbers(self, packed: Tensor) -> Tensor:
        return packed[:, : self._numbers_bytes].view(self._element)

    def _scales(self, packed: Tensor) -> Tensor:
        return packed[:, self._scale_at : self._scale_at + _WORD].view(torch.float32)[:, 0]

    @property
    def _numbers_bytes(self) -> int:
        return self.width * self._element.itemsize

    @property
    def _scale_at(self) -> int:
        return -(-self._numbers_bytes // _WORD) * _WORD

    @property
    def _element(self) -> torch.dtype:
        match self.payload:
            case "plain":
                return self.dtype
            case "int8":
                return torch.int8
            case "fp8":
                return FP8
            case _:
                assert_never(self.payload)


def aligned(nbytes: int) -> int:
    """As many bytes, and what is missing to a multiple of `ALIGNED`."""
    return -(-nbytes // ALIGNED) * ALIGNED
