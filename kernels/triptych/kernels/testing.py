"""Weights for tests."""

from collections.abc import Mapping

import torch

from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.weights import GgufWeight

_HALVES: Mapping[GgufKind, slice] = {
    "Q4_0": slice(0, 2),
    "Q4_1": slice(0, 4),
    "Q8_0": slice(0, 2),
    "Q5_0": slice(0, 2),
    "Q5_1": slice(0, 4),
    "Q4_K": slice(0, 4),
    "Q5_K": slice(0, 4),
    "Q6_K": slice(208, 210),
}
"""Bytes of a block that are float16."""


def random_blocks(kind: GgufKind, outputs: int, inputs: int, scale: float = 0.1) -> GgufWeight:
    """Any bits but in the float16 numbers: those are of either sign and the size of `scale`, or zero."""
    elements, size = GGUF_BLOCKS[kind]
    packed = torch.randint(0, 256, (outputs * inputs // elements, size), dtype=torch.uint8)
    place = _HALVES[kind]
    halves = torch.randn(len(packed), (place.stop - place.start) // 2).mul_(scale)
    halves[torch.rand(len(packed)) < 0.05] = 0
    packed[:, place] = halves.half().view(torch.uint8)
    return GgufWeight(packed.view(outputs, -1), kind, inputs)
