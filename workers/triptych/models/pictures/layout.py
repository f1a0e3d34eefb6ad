"""How pictures and videos stand in a prompt. No torch, no transformers: the router needs this."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from triptych.core.positions import Grid


@dataclass(frozen=True, slots=True)
class Rows:
    """A run of positions that embedding rows take."""

    count: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token, by its id."""

    id: int


Piece: TypeAlias = str | Token | Rows
"""Text is tokenized together with what surrounds it, the special tokens that it spells included."""


@dataclass(frozen=True, slots=True)
class MediaLayout:
    """What one picture or video becomes in a prompt, in the place of its placeholder.

    Attributes:
        token_id: What the positions of its rows hold.
        pieces: From first to last; rows of the embedding are taken in this order.
        patches: That pass the vision tower: what encoding it costs.
        grids: One for each `Rows`, if the model's positions have three dimensions (arXiv:2409.12191).
    """

    token_id: int
    pieces: tuple[Piece, ...]
    patches: int
    grids: tuple[Grid, ...] = ()

    @property
    def rows(self) -> int:
        """Embedding rows."""
        return sum(piece.count for piece in self.pieces if isinstance(piece, Rows))


class Layouts(Protocol):
    """Layouts of one model's pictures and videos, from their sizes alone."""

    @property
    def image_placeholder(self) -> int:
        """The token that the chat template writes for a picture."""

    @property
    def video_placeholder(self) -> int | None:
        """The token that it writes for a video; None: the model takes none."""

    def image(self, width: int, height: int, *, field: str = "image") -> MediaLayout:
        """A picture of so many pixels, turned upright; InvalidArgument for a shape that the model does not take."""

    def video(self, frames: int, width: int, height: int, fps: float, *, field: str = "video") -> MediaLayout:
        """A video of so many frames of one size, `fps` to a second.

        Raises:
            FailedPrecondition: the model takes no videos.
            InvalidArgument: a shape or a speed that it does not take.
        """
