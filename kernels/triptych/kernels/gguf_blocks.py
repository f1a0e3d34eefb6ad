"""What the blocks of GGUF files stand for: the definition of each kind, as in ggml's reference (ggml-quants.c)."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

GgufKind = Literal["Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]

GGUF_BLOCKS: Mapping[GgufKind, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q8_0": (32, 34),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Elements and bytes of what a kind packs together."""


def unpacked(packed: Tensor, kind: GgufKind) -> Tensor:
    """The numbers of blocks.

    Args:
        packed: [n, bytes of a block] uint8.
        kind: How they are packed.

    Returns:
        [n, elements of a block] float32.
    """
    return _UNPACK[kind](packed)


def _half(packed: Tensor, start: int) -> Tensor:
    """[n, 1] float32 of the float16 at byte `start` of each block."""
    return packed[:, start : start + 2].clone().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[n, 2k] of [n, k] bytes: the low halves are the first k elements."""
    return torch.cat([packed & 15, packed >> 4], dim=1)


def _bits(packed: Tensor, count: int) -> Tensor:
    """[n, 8/count, k] of [n, k] bytes: their lowest `count` bits, the next, and so on."""
    shifts = torch.arange(0, 8, count, dtype=torch.uint8, device=packed.device)
    return (packed.unsqueeze(1) >> shifts.unsqueeze(1)) & ((1 << count) - 1)


def _unpack_q4_0(packed: Tensor) -> Tensor:
    return _nibbles(packed[:, 2:]).float().sub_(8).mul_(_half(packed, 0))


def _unpack_q4_1(packed: Tensor) -> Tensor:
    return _nibbles(packed[:, 4:]).float().mul_(_half(packed, 0)).add_(_half(packed, 2))


def _unpack_q8_0(packed: Tensor) -> Tensor:
    return packed[:, 2:].clone().view(torch.int8).float().mul_(_half(packed, 0))


def _fives(packed: Tensor) -> Tensor:
    """[n, 32] of four bytes with the fifth bits, in their order, and sixteen with the others."""
    fifths = _bits(packed[:, :4], 1).transpose(1, 2).reshape(-1, 32)
    return (_nibbles(packed[:, 4:]) | fifths << 4).float()


def _unpack_q5_0(packed: Tensor) -> Tensor:
    return _fives(packed[:, 2:]).sub_(16).mul_(_half(packed, 0))


def _unpack_q5_1(packed: Tensor) -> Tensor:
    return _fives(packed[:, 4:]).mul_(_half(packed, 0)).add_(_half(packed, 2))


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 8] each, of super-blocks that begin with two halves and twelve bytes of 6-bit integers."""
    low, middle, high = packed[:, 4:8], packed[:, 8:12], packed[:, 12:16]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6) << 4], dim=1)
    minima = torch.cat([middle & 63, high >> 4 | (middle >> 6) << 4], dim=1)
    return scales.float().mul_(_half(packed, 0)), minima.float().mul_(_half(packed, 2))


def _scaled(values: Tensor, packed: Tensor) -> Tensor:
    """[n, 256] of unsigned integers [n, 8, 32]."""
    scales, minima = _scales_and_minima(packed)
    return values.float().mul_(scales.unsqueeze(2)).sub_(minima.unsqueeze(2)).view(-1, 256)


def _unpack_q4_k(packed: Tensor) -> Tensor:
    return _scaled(_bits(packed[:, 16:].reshape(-1, 32), 4).view(-1, 8, 32), packed)


def _unpack_q5_k(packed: Tensor) -> Tensor:
    lower = _bits(packed[:, 48:].reshape(-1, 32), 4).view(-1, 8, 32)
    return _scaled(lower | _bits(packed[:, 16:48], 1) << 4, packed)


def _unpack_q6_k(packed: Tensor) -> Tensor:
    lower = _bits(packed[:, :128].reshape(-1, 64), 4).reshape(-1, 256)
    upper = _bits(packed[:, 128:192].reshape(-1, 32), 2).reshape(-1, 256)
    scales = packed[:, 192:208].clone().view(torch.int8).float().mul_(_half(packed, 208))
    return (lower | upper << 4).float().sub_(32).view(-1, 16, 16).mul_(scales.unsqueeze(2)).view(-1, 256)


_UNPACK: Mapping[GgufKind, Callable[[Tensor], Tensor]] = {
    "Q4_0": _unpack_q4_0,
    "Q4_1": _unpack_q4_1,
    "Q8_0": _unpack_q8_0,
    "Q5_0": _unpack_q5_0,
    "Q5_1": _unpack_q5_1,
    "Q4_K": _unpack_q4_k,
    "Q5_K": _unpack_q5_k,
    "Q6_K": _unpack_q6_k,
}
