"""Where the experts of a layer are, as `moe` reads it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from triptych.experts.blob import BlobLayout, MatrixParts
from triptych.kernels import Experts, SlotProjection
from triptych.kernels.compact import ExpertWeight


class LayerTables:
    """The experts of one layer, in slots.

    Args:
        layout: Of each of them.
        experts: E.
        memory: [N, B] uint8, the slots.
    """

    def __init__(self, layout: BlobLayout, experts: int, memory: Tensor) -> None:
        gate, up, down = (
            SlotProjection(memory, _view(parts), torch.zeros(3, experts, dtype=torch.int64))
            for parts in (layout.gate, layout.up, layout.down)
        )
        self.experts = Experts(gate, up, down)
        self._addresses = [projection.addresses.numpy() for projection in (gate, up, down)]
        self._origins = [addresses[:, 0].copy() for addresses in self._addresses]  # everybody is in slot 0 at first
        self._steps = [np.where(origin, memory.shape[1], 0) for origin in self._origins]

    def place(self, expert: int, slot: int) -> None:
        """An expert is in a slot, or will be when it is computed with."""
        for addresses, origin, step in zip(self._addresses, self._origins, self._steps, strict=True):
            addresses[:, expert] = origin + slot * step


def _view(parts: MatrixParts) -> Callable[[Tensor], tuple[ExpertWeight, Tensor | None]]:
    def view(blob: Tensor) -> tuple[ExpertWeight, Tensor | None]:
        matrix = parts.view(blob)
        return matrix.weight, matrix.bias

    return view
