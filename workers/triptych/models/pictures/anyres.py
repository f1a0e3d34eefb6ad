"""Which tiles LLaVA-NeXT cuts a picture into, and which of their patches show it rather than padding."""

from dataclasses import dataclass

from triptych.models.spec import LlavaNextVision


@dataclass(frozen=True, slots=True)
class Canvas:
    """The tiles of a picture, as one grid of patches.

    Attributes:
        rows: Rows of tiles.
        columns: Columns of tiles.
        top: First row of patches that shows the picture.
        left: First column of patches that does.
        height: Rows of patches that do.
        width: Columns of patches that do.
    """

    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int


def best_resolution(width: int, height: int, resolutions: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The (height, width) that shows most of a picture's pixels, and of those the first with the least padding."""

    def shown_and_padding(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - resolution[0] * resolution[1]

    return max(resolutions, key=shown_and_padding)


def canvas_of(width: int, height: int, spec: LlavaNextVision) -> Canvas:
    """Lays a picture of so many pixels onto the tiles of the best resolution."""
    resolution = best_resolution(width, height, spec.resolutions)
    rows, columns = (edge // spec.tower.image_size for edge in resolution)
    all_height, all_width = rows * spec.tower.side, columns * spec.tower.side
    # Ratios and rounding as in transformers: a patch more or less would move every row behind it.
    if width / height > all_width / all_height:
        shown = int(round(height * (all_width / width), 7))
        top, left = (all_height - shown) // 2, 0
    else:
        shown = int(round(width * (all_height / height), 7))
        top, left = 0, (all_width - shown) // 2
    return Canvas(rows, columns, top, left, all_height - 2 * top, all_width - 2 * left)
