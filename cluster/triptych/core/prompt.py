"""What a caller asks and what the engine reads: chat messages, and token ids with the places of images."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from triptych.core.chat import ToolCall
from triptych.core.positions import Grid, reach

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a conversation."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An encoded image: the bytes of a PNG, JPEG, WebP, GIF or BMP file."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video as frames that were taken from it at equal distances of time.

    Attributes:
        frames: Encoded images, all of one size.
        fps: Frames a second, of these frames.
    """

    frames: tuple[bytes, ...] = field(repr=False)
    fps: float


MediaPart = ImagePart | VideoPart
Part = TextPart | MediaPart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; the order of the parts is the order in which the model reads them.

    Attributes:
        role: One of `ROLES`.
        parts: What is said; nothing where a turn consists of tool calls.
        tool_calls: Functions that the assistant called in this turn.
        tool_call_id: Of a tool's turn: the call that it answers.
        name: Of a tool's turn: the function; of others: who speaks.
        reasoning: What the assistant thought before it spoke; templates show it as they were trained to.
    """

    role: str
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """Its images and videos."""
        return tuple(part for part in self.parts if not isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The tokens `[start, start + length)`, which rows of an image's or a video's embedding replace.

    Attributes:
        start: Index of the first.
        length: How many, and of how many rows.
        image: Which of the request's images and videos.
        row: First row of its embedding.
        grid: How these rows lie, where the model has three positions.
    """

    start: int
    length: int
    image: int = 0
    row: int = 0
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine reads it.

    Attributes:
        token_ids: Every token of the prompt; those of an image are the model's image token.
        image_spans: In the order of the images, disjoint and ascending; of one image several, where text parts its
            rows.
    """

    token_ids: tuple[int, ...]
    image_spans: tuple[ImageSpan, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each image, the rows of its embedding."""
        counts = Counter[int]()
        for span in self.image_spans:
            counts[span.image] += span.length
        return tuple(counts[image] for image in sorted(counts))

    @property
    def reach(self) -> int:
        """One more than the highest position in it."""
        return reach(self.image_spans, len(self.token_ids))
