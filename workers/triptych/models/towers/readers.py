"""From prepared pictures to embedding rows, for each kind of picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.models.pictures.anyres import canvas_of
from triptych.models.pictures.prepared import Patches, Pixels, PreparedImage, Tiles
from triptych.models.spec import LlavaNextVision
from triptych.models.towers.patches import GridSize
from triptych.models.towers.tiles import TileTower


class Reader(Protocol):
    """A vision tower with all that follows it."""

    def __call__(self, images: Sequence[PreparedImage], place: Callable[[Pixels], Tensor]) -> list[Tensor]:
        """Rows of each picture, [1 + levels, rows, H].

        Args:
            images: Pictures.
            place: Brings pixels to the tower's device and type.
        """


@dataclass(frozen=True, slots=True)
class TileReader:
    """All tiles of all pictures at once; `project`: [N, patches, tower width] to [N, rows, H]."""

    tower: TileTower
    project: Callable[[Tensor], Tensor]

    def __call__(self, images: Sequence[PreparedImage], place: Callable[[Pixels], Tensor]) -> list[Tensor]:
        """See `Reader`."""
        return [rows.flatten(0, 1)[None] for rows in self.tiles(images, place)]

    def tiles(self, images: Sequence[PreparedImage], place: Callable[[Pixels], Tensor]) -> list[Tensor]:
        """Rows of each picture by tiles, [tiles, rows, H]."""
        pixels = [place(image.pixels) for image in images if isinstance(image, Tiles)]
        if len(pixels) != len(images):
            raise InvalidArgument("the tower reads tiles, got patches", field="image")
        rows = self.project(self.tower(torch.cat(pixels)))
        return list(torch.split(rows, [len(tiles) for tiles in pixels]))


@dataclass(frozen=True, slots=True)
class LlavaNextReader:
    """The tile that shows the whole, then the lines of patches of the others put together, without padding.

    Attributes:
        reader: Of the tiles.
        spec: Knows which tiles there are.
        newline: [H], the row behind every line.
    """

    reader: TileReader
    spec: LlavaNextVision
    newline: Tensor

    def __call__(self, images: Sequence[PreparedImage], place: Callable[[Pixels], Tensor]) -> list[Tensor]:
        """See `Reader`."""
        tiles = self.reader.tiles(images, place)
        return [self._packed(rows, image)[None] for rows, image in zip(tiles, images, strict=True)]

    def _packed(self, tiles: Tensor, image: PreparedImage) -> Tensor:
        assert isinstance(image, Tiles)  # `tiles` has looked
        shown, side = canvas_of(*image.size, self.spec), self.spec.tower.side
        whole, parts = tiles[0], tiles[1:]
        if len(parts) != shown.rows * shown.columns:
            raise InvalidArgument(
                f"a picture of {image.size[0]} x {image.size[1]} pixels has {shown.rows} x {shown.columns} tiles, "
                f"got {len(parts)}",
                field="image",
            )
        grid = parts.view(shown.rows, shown.columns, side, side, -1).transpose(1, 2)
        grid = grid.reshape(shown.rows * side, shown.columns * side, -1)
        grid = grid[shown.top : shown.top + shown.height, shown.left : shown.left + shown.width]
        lines = torch.cat([grid, self.newline.expand(shown.height, 1, -1)], dim=1)
        return torch.cat([whole, lines.flatten(0, 1)])


@dataclass(frozen=True, slots=True)
class PatchReader:
    """Patches of all pictures, one after the other."""

    tower: Callable[[Tensor, Sequence[GridSize]], Tensor]

    def __call__(self, images: Sequence[PreparedImage], place: Callable[[Pixels], Tensor]) -> list[Tensor]:
        """See `Reader`."""
        patches = [image for image in images if isinstance(image, Patches)]
        if len(patches) != len(images):
            raise InvalidArgument("the tower reads patches, got tiles", field="image")
        rows = self.tower(torch.cat([place(image.pixels) for image in patches]), [image.grid for image in patches])
        return list(torch.split(rows, [image.layout.rows for image in patches], dim=1))
