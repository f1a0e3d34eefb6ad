"""The order of patches in which the windows of Qwen2.5-VL are runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.towers.patches import GridSize


@dataclass(frozen=True, slots=True)
class Windows:
    """Squares of patches that become one row, reordered.

    Attributes:
        order: [rows] int64, the row that comes at each place.
        segments: Patches of each window.
    """

    order: Tensor
    segments: tuple[int, ...]

    def apply(self, patches: Tensor) -> Tensor:
        """Reorders [patches, …]."""
        return patches.view(len(self.order), -1, *patches.shape[1:])[self.order].view(patches.shape)

    def undo(self, rows: Tensor) -> Tensor:
        """Puts [rows, …] back."""
        out = torch.empty_like(rows)
        out[self.order] = rows
        return out


def windows(grids: Sequence[GridSize], merge: int, side: int) -> Windows:
    """Cuts every frame into windows of `side` times `side` rows; smaller ones remain at the right and at the bottom.

    A frame stays one run of patches, and its windows of one size stand side by side.
    """
    order: list[Tensor] = []
    segments: list[int] = []
    start = 0
    for time, height, width in grids:
        rows = torch.arange(height * width // merge**2).view(height // merge, width // merge)
        for _ in range(time):
            cut = sorted(_cut(rows + start, side), key=len)
            order += cut
            segments += [len(window) * merge**2 for window in cut]
            start += rows.numel()
    return Windows(torch.cat(order), tuple(segments))


def _cut(rows: Tensor, side: int) -> Iterator[Tensor]:
    for line in torch.split(rows, side, dim=0):
        for window in torch.split(line, side, dim=1):
            yield window.flatten()
