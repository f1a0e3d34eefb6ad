"""The three positions of each token, for models that have them (M-RoPE); `triptych.core.positions` has the rule."""

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triptych.core.positions import Grid, Placed, following, origins

Axes = npt.NDArray[np.int64]
"""[3, n]: time, height and width of each of n tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Of the tokens of one sequence.

    Attributes:
        prompt: Of the prompt's tokens.
        shift: What the positions of all later tokens exceed their indices by.
    """

    prompt: Axes
    shift: int

    def between(self, start: int, stop: int) -> Axes:
        """Of the tokens `[start, stop)`."""
        known = self.prompt[:, start:stop]
        missing = stop - start - known.shape[1]
        if not missing:
            return known
        later = np.arange(stop - missing, stop) + self.shift
        return np.concatenate((known, np.broadcast_to(later, (3, missing))), axis=1)


def positions_of(length: int, spans: Sequence_[Placed]) -> Positions | None:
    """Positions of a prompt; None where they are its indices.

    Args:
        length: Tokens of the prompt.
        spans: Its images, in order.
    """
    if all(span.grid is None for span in spans):
        return None
    prompt, steps = np.empty((3, length), np.int64), np.ones(length + 1, np.int64)
    for span, grid, _ in origins(spans):
        steps[span.start + span.length] += grid.extent - span.length
    prompt[:] = np.cumsum(steps[:length]) - 1
    for span, grid, origin in origins(spans):
        prompt[:, span.start : span.start + span.length] = origin + _places(grid)
    return Positions(prompt, following(spans, length) - length)


def one_each(axes: Axes) -> bool:
    """Whether every token's three positions are equal, so that plain rotation does."""
    return bool((axes == axes[0]).all())


def _places(grid: Grid) -> Axes:
    """[3, rows], from the grid's own beginning."""
    shape = (grid.time, grid.height, grid.width)
    time, height, width = np.indices(shape).reshape(3, -1)
    return np.stack((np.array(grid.frames())[time], height, width))
