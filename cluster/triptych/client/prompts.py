"""What callers write as a prompt, and how it becomes one."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from triptych.client.messages import MessageLike, to_message
from triptych.core.errors import InvalidArgument, NotFound, ResourceExhausted
from triptych.core.inputs import ChatInput, PromptInput, TextInput, TokenInput
from triptych.core.prompt import ChatMessage, ImagePart, TextPart, VideoPart
from triptych.wire.limits import MAX_MESSAGE_BYTES

ImageSource = str | os.PathLike[str] | bytes | ImagePart
"""A path, or the bytes of an encoded picture."""

PromptLike = str | Sequence[int] | Sequence[MessageLike]
"""Plain text, token ids, or a conversation."""


def user_message(text: str, *, images: Iterable[ImageSource] = ()) -> ChatMessage:
    """A user's turn: the images, then the text about them."""
    return ChatMessage("user", (*(load_image(image) for image in images), TextPart(text)))


def load_image(source: ImageSource) -> ImagePart:
    """An encoded picture, from a file unless bytes are given. Whether it is a picture is the server's to say.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: the file cannot be read.
        ResourceExhausted: the file does not fit a message.
    """
    if isinstance(source, ImagePart):
        return source
    if isinstance(source, bytes):
        return ImagePart(source)
    path = Path(source)
    try:
        size = path.stat().st_size
        if size >= MAX_MESSAGE_BYTES:
            limit = f"{MAX_MESSAGE_BYTES} bytes ({MAX_MESSAGE_BYTES >> 20} MiB)"
            raise ResourceExhausted(f"{path} has {size} bytes; a message holds at most {limit}", field="image")
        return ImagePart(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no image file {path}", field="image") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"the image file {path} cannot be read: {reason}", field="image") from error


def load_video(frames: Iterable[ImageSource], fps: float) -> VideoPart:
    """A video from frames that were taken from it at equal distances of time, `fps` to a second; see `load_image`."""
    return VideoPart(tuple(load_image(frame).data for frame in frames), fps)


def to_prompt(prompt: PromptLike) -> PromptInput:
    """The prompt in one of its three forms.

    Raises:
        InvalidArgument: it is empty, or neither text, nor token ids, nor messages.
    """
    if isinstance(prompt, str):
        return TextInput(prompt)
    if isinstance(prompt, (bytes, ChatMessage, Mapping)) or not isinstance(prompt, Iterable):
        raise _not_a_prompt(type(prompt).__name__)
    items = tuple(prompt)
    if not items:
        raise InvalidArgument("the prompt is empty", field="prompt")
    token_ids = tuple(item for item in items if isinstance(item, int))
    if len(token_ids) == len(items):
        return TokenInput(token_ids)
    messages = tuple(item for item in items if isinstance(item, (ChatMessage, Mapping)))
    if len(messages) == len(items):
        return ChatInput(tuple(to_message(index, message) for index, message in enumerate(messages)))
    raise _not_a_prompt(f"a sequence that holds {', '.join(sorted({type(item).__name__ for item in items}))}")


def _not_a_prompt(got: str) -> InvalidArgument:
    return InvalidArgument(f"a prompt is a text, token ids or chat messages, got {got}", field="prompt")
