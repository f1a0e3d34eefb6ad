"""The vision side of a model: encoded pictures in, rows of the decoder's input out."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.core.errors import Internal
from triptych.core.prompt import ImagePart, ImageSpan, MediaPart, VideoPart
from triptych.engine.sequence import Media
from triptych.models.files import ModelFiles
from triptych.models.pictures import PreparedImage, Preprocessor, open_preprocessor
from triptych.models.spec import ModelSpec
from triptych.models.towers.encoder import VisionEncoder


@dataclass(frozen=True, slots=True)
class Shown:
    """An image or a video that is to be encoded.

    Attributes:
        part: As the request has it.
        rows: Of its embedding, as its prompt says; its patches are proportional to them.
        field: What errors call it.
    """

    part: MediaPart
    rows: int
    field: str = "image"


@dataclass(frozen=True, slots=True)
class Eyes:
    """A vision tower and the preprocessing it was trained with."""

    preprocessor: Preprocessor
    encoder: VisionEncoder

    @classmethod
    def load(cls, files: ModelFiles, spec: ModelSpec, dtype: torch.dtype, device: str = "cpu") -> "Eyes":
        """Reads the vision part of a model, and nothing else of it."""
        return cls(open_preprocessor(files, spec), VisionEncoder.load(files, spec, dtype, device))

    def prepare(self, part: MediaPart, field: str) -> PreparedImage:
        """An image or a video as the tower reads it.

        Raises:
            TriptychError: as `Preprocessor`.
        """
        match part:
            case ImagePart(data):
                return self.preprocessor.image(data, field=field)
            case VideoPart(frames, fps):
                return self.preprocessor.video(frames, fps, field=field)
            case _:
                assert_never(part)

    def look(self, shown: Shown) -> Tensor:
        """[1 + levels, rows, hidden] of an image as it came.

        Raises:
            TriptychError: as `Preprocessor`; or it has other rows than its prompt says.
        """
        prepared = self.prepare(shown.part, shown.field)
        if (rows := prepared.layout.rows) != shown.rows:
            raise Internal(f"{shown.field} has {rows} rows; its prompt has {shown.rows} tokens for it")
        return self.see(prepared)

    def see(self, prepared: PreparedImage) -> Tensor:
        """[1 + levels, rows, hidden]; one at a time, so that it has the same bytes in any company."""
        (embedding,) = self.encoder.encode([prepared])
        return embedding


def place(span: ImageSpan, content: str, embedding: Tensor | None) -> Media:
    """The rows that stand for the tokens of a span.

    Args:
        span: Which.
        content: Names the embedding.
        embedding: [1 + levels, rows, hidden]; None where it is elsewhere.
    """
    if embedding is None:
        return Media(span.start, span.length, None, content, span.row, span.grid)
    rows = embedding[:, span.row : span.row + span.length]
    deepstack = rows[1:] if len(rows) > 1 else None
    return Media(span.start, span.length, rows[0], content, span.row, span.grid, deepstack)
