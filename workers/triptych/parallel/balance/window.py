"""Loads of experts over the last steps."""

from collections import deque

import numpy as np

from triptych.parallel.balance.messages import Counts
from triptych.parallel.balance.policy import CHUNKS


class LoadWindow:
    """A window that slides piece by piece. A piece is what all ranks together have counted since the one before.

    Args:
        layers: With experts.
        experts: Of each.

    Attributes:
        total: [layers, E], the sum of the pieces.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.total: Counts = np.zeros((layers, experts), np.int64)
        self._pieces: deque[Counts] = deque()

    def slide(self) -> None:
        """Begins a new piece; the oldest goes."""
        if len(self._pieces) == CHUNKS:
            self.total -= self._pieces.popleft()
        self._pieces.append(np.zeros_like(self.total))

    def add(self, counts: Counts) -> None:
        """Adds a rank's counts [layers, E] to the newest piece."""
        self._pieces[-1] += counts
        self.total += counts
