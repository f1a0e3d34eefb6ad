"""What a caller asks and what the engine reads: chat messages, and token ids with the places of images."""

from dataclasses import dataclass, field
from typing import Final

from triptych.core.chat import ToolCall

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
    parts: tuple[TextPart | ImagePart, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The token positions `[start, start + length)` that one image's embedding rows replace."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine reads it.

    Attributes:
        token_ids: Every position of the prompt; an image's positions hold the model's image token.
        image_spans: One span per image, in the order of the images, disjoint and ascending.
    """

    token_ids: tuple[int, ...]
    image_spans: tuple[ImageSpan, ...] = ()
