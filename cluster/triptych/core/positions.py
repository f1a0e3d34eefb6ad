"""Positions of a prompt whose images are not lines of tokens but grids (M-RoPE, arXiv:2409.12191). Pure.

A token has three positions: time, height and width. Those of text are equal and count on; an image's tokens have
those of their place in its grid, from where the text stopped; and text after an image goes on behind the longer side
of the grid. A token's position is therefore not its index.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Grid:
    """How the rows of an image or a video lie: time by time, line by line.

    Attributes:
        time: Frames, or pairs of them; 1 for an image.
        height: Lines of a frame.
        width: Rows of a line.
        interval: Positions between two frames, before they are rounded down.
    """

    time: int
    height: int
    width: int
    interval: float = 1.0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.time * self.height * self.width

    @property
    def extent(self) -> int:
        """Positions that text after it is further on; transformers leaves time out of account."""
        return max(self.height, self.width)

    def frames(self) -> tuple[int, ...]:
        """The first position of each frame: float32 products, as in the code that the models were trained with."""
        interval = _float32(self.interval)
        return tuple(int(_float32(frame * interval)) for frame in range(self.time))


class Placed(Protocol):
    """A run of tokens that may lie in a grid."""

    @property
    def start(self) -> int:
        """Index of the first."""

    @property
    def length(self) -> int:
        """How many."""

    @property
    def grid(self) -> Grid | None:
        """Where the model has three positions: as many rows as tokens."""


def origins(spans: Iterable[Placed]) -> Iterator[tuple[Placed, Grid, int]]:
    """The runs that lie in grids, each with the position that its own count from.

    Args:
        spans: In the order of the prompt.
    """
    shift = 0
    for span in spans:
        if span.grid is not None:
            yield span, span.grid, span.start + shift
            shift += span.grid.extent - span.length


def following(spans: Iterable[Placed], length: int) -> int:
    """The position of the first token after the prompt, which is text: no more than its index.

    This is how transformers' `generate` counts; frames that are far apart may have higher ones.

    Args:
        spans: In the order of the prompt.
        length: Tokens of the prompt.
    """
    return length + sum(grid.extent - span.length for span, grid, _ in origins(spans))


def reach(spans: Iterable[Placed], length: int) -> int:
    """One more than the highest position in a prompt: a video may take more positions than tokens.

    Args:
        spans: In the order of the prompt.
        length: Tokens of the prompt.
    """
    spans = tuple(spans)
    ends = (origin + max(grid.frames()[-1] + 1, grid.extent) for _, grid, origin in origins(spans))
    return max(following(spans, length), *ends, 0)


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
