"""Layouts of pictures that are cut into square tiles."""

from dataclasses import dataclass
from typing import Final, Protocol

from triptych.core.errors import FailedPrecondition
from triptych.models.pictures.anyres import canvas_of
from triptych.models.pictures.layout import MediaLayout, Piece, Rows, Token
from triptych.models.pictures.splitting import Splitting
from triptych.models.spec import Gemma3Vision, Idefics3Vision, LlavaNextVision, LlavaVision

_FRAME: Final = "<fake_token_around_image>"


class Arrangement(Protocol):
    """A family's way to lay a picture out."""

    def __call__(self, token_id: int, width: int, height: int) -> MediaLayout:
        """The layout of a picture of so many pixels, whose rows hold `token_id`."""


@dataclass(frozen=True, slots=True)
class TileLayouts:
    """Layouts of a model that takes pictures only.

    Attributes:
        image_placeholder: The token that the chat template writes for a picture.
        token_id: What the positions of rows hold.
        arrange: The family's way.
        video_placeholder: None: it takes no videos.
    """

    image_placeholder: int
    token_id: int
    arrange: Arrangement
    video_placeholder: None = None

    def image(self, width: int, height: int, *, field: str = "image") -> MediaLayout:
        """See `Layouts`."""
        return self.arrange(self.token_id, width, height)

    def video(self, frames: int, width: int, height: int, fps: float, *, field: str = "video") -> MediaLayout:
        """Refuses."""
        raise FailedPrecondition(f"{field} is a video, and the model takes pictures only", field=field)


@dataclass(frozen=True, slots=True)
class LlavaArrangement:
    """The patches of one tile."""

    spec: LlavaVision

    def __call__(self, token_id: int, width: int, height: int) -> MediaLayout:
        """See `Arrangement`."""
        return MediaLayout(token_id, (Rows(self.spec.rows),), self.spec.tower.side**2)


@dataclass(frozen=True, slots=True)
class LlavaNextArrangement:
    """The whole picture in one tile, then the patches of the others that show it, with a row behind each line."""

    spec: LlavaNextVision

    def __call__(self, token_id: int, width: int, height: int) -> MediaLayout:
        """See `Arrangement`."""
        tile = self.spec.tower.side**2
        shown = canvas_of(width, height, self.spec)
        rows = Rows(tile + shown.height * (shown.width + 1))
        return MediaLayout(token_id, (rows,), tile * (1 + shown.rows * shown.columns))


@dataclass(frozen=True, slots=True)
class Idefics3Arrangement:
    """Each tile by its row and column, then the whole picture."""

    spec: Idefics3Vision
    splitting: Splitting

    def __call__(self, token_id: int, width: int, height: int) -> MediaLayout:
        """See `Arrangement`."""
        rows, columns = self.splitting.tiles(width, height)
        tile = Rows(self.spec.tile_rows)
        pieces: list[Piece] = []
        between = ""
        for row in range(rows):
            for column in range(columns):
                pieces += (f"{between}{_FRAME}<row_{row + 1}_col_{column + 1}>", tile)
                between = ""
            between = "\n"
        before = "\n" + between if rows else ""
        pieces += (f"{before}{_FRAME}<global-img>", tile, _FRAME)
        return MediaLayout(token_id, tuple(pieces), (1 + rows * columns) * self.spec.tower.side**2)


@dataclass(frozen=True, slots=True)
class Gemma3Arrangement:
    """One tile, in a paragraph of its own."""

    spec: Gemma3Vision

    def __call__(self, token_id: int, width: int, height: int) -> MediaLayout:
        """See `Arrangement`."""
        spec = self.spec
        begin, end = Token(spec.begin_token_id), Token(spec.end_token_id)
        return MediaLayout(token_id, ("\n\n", begin, Rows(spec.side**2), end, "\n\n"), spec.tower.side**2)
