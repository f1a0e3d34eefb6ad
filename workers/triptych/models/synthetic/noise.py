"""Random numbers for gigabytes of weights, drawn once: every matrix is a window of them with a place of its own."""

from functools import lru_cache

import torch
from torch import Tensor


class Noise:
    """Normal numbers in bfloat16.

    Args:
        random: Draws them, and the places of windows.
        most: Elements of the largest matrix.
    """

    def __init__(self, random: torch.Generator, most: int) -> None:
        self._random, self._most = random, most
        self._taken: set[int] = set()
        self._drawn = torch.randn(2 * most, generator=random)
        self._scaled = lru_cache(maxsize=None)(self._scale)

    def matrix(self, outputs: int, inputs: int, deviation: float) -> Tensor:
        """[outputs, inputs], a view."""
        start = self._place()
        return self._scaled(deviation)[start : start + outputs * inputs].view(outputs, inputs)

    def _place(self) -> int:
        """Of a window, no two of which begin alike as long as there are places left."""
        if len(self._taken) == self._most:
            self._taken.clear()
        while (start := int(torch.randint(self._most, (), generator=self._random))) in self._taken:
            pass
        self._taken.add(start)
        return start

    def _scale(self, deviation: float) -> Tensor:
        return (self._drawn * deviation).bfloat16()
