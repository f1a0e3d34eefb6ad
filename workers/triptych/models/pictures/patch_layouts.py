"""Layouts of pictures and videos that are scaled to whole patches (Qwen)."""

from collections.abc import Iterator
from dataclasses import dataclass

from triptych.core.errors import InvalidArgument
from triptych.core.positions import Grid
from triptych.models.pictures.layout import MediaLayout, Piece, Rows, Token
from triptych.models.pictures.resizing import PixelBudget
from triptych.models.spec import Qwen3Vision, Qwen25Vision


@dataclass(frozen=True, slots=True)
class PatchLayouts:
    """Layouts of Qwen2.5-VL and Qwen3-VL.

    Attributes:
        image_placeholder: The token that the chat template writes for a picture, and that its rows hold.
        spec: The tower.
        images: Pixels of a picture.
        videos: Pixels of a frame (Qwen2.5-VL) or of all frames (Qwen3-VL).
    """

    image_placeholder: int
    spec: Qwen25Vision | Qwen3Vision
    images: PixelBudget
    videos: PixelBudget

    @property
    def video_placeholder(self) -> int:
        """The token that the chat template writes for a video, and that its rows hold."""
        return self.spec.video.row_id

    @property
    def _factor(self) -> int:
        return self.spec.grid.patch_size * self.spec.grid.merge

    def image(self, width: int, height: int, *, field: str = "image") -> MediaLayout:
        """See `Layouts`."""
        wide, high = self.image_size(width, height, field)
        grid = Grid(1, high // self._factor, wide // self._factor)
        rows = grid.height * grid.width
        return MediaLayout(self.image_placeholder, (Rows(rows),), rows * self.spec.grid.merge**2, (grid,))

    def video(self, frames: int, width: int, height: int, fps: float, *, field: str = "video") -> MediaLayout:
        """See `Layouts`."""
        if not 0 < fps < float("inf"):
            raise InvalidArgument(f"{field}.fps must be a positive number, got {fps}", field=f"{field}.fps")
        wide, high = self.frame_size(frames, width, height, field)
        steps = -(-frames // self.spec.grid.frames)
        height, width = high // self._factor, wide // self._factor
        patches = steps * height * width * self.spec.grid.merge**2
        if isinstance(self.spec, Qwen25Vision):
            grid = Grid(steps, height, width, self.spec.tokens_per_second * (self.spec.grid.frames / fps))
            return MediaLayout(self.spec.video.row_id, (Rows(steps * height * width),), patches, (grid,))
        pieces = tuple(self._with_times(frames, fps, Rows(height * width)))
        return MediaLayout(self.spec.video.row_id, pieces, patches, (Grid(1, height, width),) * steps)

    def image_size(self, width: int, height: int, field: str) -> tuple[int, int]:
        """Width and height that a picture is scaled to."""
        return self.images.fit(width, height, self._factor, field)

    def frame_size(self, frames: int, width: int, height: int, field: str) -> tuple[int, int]:
        """Width and height that each of so many frames is scaled to."""
        if isinstance(self.spec, Qwen25Vision):
            return self.videos.fit(width, height, self._factor, field)
        depth, factor = self.spec.grid.frames, self._factor
        if frames < depth:
            raise InvalidArgument(f"{field} must have at least {depth} frames, got {frames}", field=field)
        if min(width, height) < factor:
            scale = max(factor / width, factor / height)
            width, height = int(width * scale), int(height * scale)
        return self.videos.fit(width, height, factor, field, steps=round(frames / depth) * depth, frames=frames)

    def _with_times(self, frames: int, fps: float, rows: Rows) -> Iterator[Piece]:
        """Each step after the middle of its first and last frame's seconds."""
        depth, tokens = self.spec.grid.frames, self.spec.video
        for first in range(0, frames, depth):
            last = min(first + depth, frames) - 1
            yield f"<{(first / fps + last / fps) / 2:.1f} seconds>"
            yield from (Token(tokens.begin_id), rows, Token(tokens.end_id))
