"""What a vision tower reads, and who makes it from encoded pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triptych.models.pictures.layout import Layouts, MediaLayout

Pixels: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A picture as square tiles.

    Attributes:
        pixels: [tiles, channels, S, S], normalised.
        layout: Its place in a prompt.
        size: Width and height of the picture itself, turned upright.
    """

    pixels: Pixels = field(repr=False)
    layout: MediaLayout
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Patches:
    """A picture or video as a grid of patches.

    Attributes:
        pixels: [time · height · width, numbers of a patch], normalised; patches that become one row are neighbours.
        layout: Its place in a prompt.
        grid: Patches in time, height and width.
    """

    pixels: Pixels = field(repr=False)
    layout: MediaLayout
    grid: tuple[int, int, int]


PreparedImage: TypeAlias = Tiles | Patches


class Preprocessor(Protocol):
    """Decodes, scales, cuts and normalises as the model's own processor does."""

    @property
    def layouts(self) -> Layouts:
        """The layouts that its results have."""

    def image(self, data: bytes, *, field: str = "image") -> PreparedImage:
        """One picture: the first frame of an animation, turned upright as its EXIF data asks.

        Raises:
            InvalidArgument: not a picture, damaged, too large, or of a shape that the model does not take.
        """

    def video(self, frames: Sequence[bytes], fps: float, *, field: str = "video") -> PreparedImage:
        """A video as encoded frames of one size, `fps` to a second.

        Raises:
            FailedPrecondition: the model takes no videos.
            InvalidArgument: as `image`; or no frames, or frames of several sizes.
        """
