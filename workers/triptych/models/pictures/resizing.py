"""Sizes that Qwen's towers take: whole squares of patches, within a budget of pixels."""

import math
from dataclasses import dataclass
from typing import Final

from triptych.core.errors import InvalidArgument

_MAX_RATIO: Final = 200


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """How many pixels a picture, or a frame or a whole video, is scaled to: at least, and at most."""

    least: int
    most: int

    def fit(
        self, width: int, height: int, factor: int, field: str, *, steps: int = 1, frames: int = 1
    ) -> tuple[int, int]:
        """The nearest width and height within the budget, both multiples of `factor`.

        Args:
            width: Pixels of the picture or of a frame.
            height: Pixels.
            factor: Pixels along each side of what becomes one embedding row.
            field: For messages.
            steps: Frames that the budget is for, as a multiple of those that make a patch.
            frames: Frames that the budget is for.

        Raises:
            InvalidArgument: one edge is over 200 times the other.
        """
        if max(width, height) / min(width, height) > _MAX_RATIO:
            raise InvalidArgument(
                f"{field} may be at most {_MAX_RATIO} times as long as wide, got {width} x {height} pixels",
                field=field,
            )
        wide, high = round(width / factor) * factor, round(height / factor) * factor
        pixels = frames * height * width
        if steps * wide * high > self.most:
            shrink = math.sqrt(pixels / self.most)
            wide, high = (max(factor, math.floor(edge / shrink / factor) * factor) for edge in (width, height))
        elif steps * wide * high < self.least:
            grow = math.sqrt(self.least / pixels)
            wide, high = (math.ceil(edge * grow / factor) * factor for edge in (width, height))
        return wide, high
