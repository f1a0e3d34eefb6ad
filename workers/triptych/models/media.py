"""Images and videos of a request, judged by their headers: what becomes of them in a prompt. No torch."""

import hashlib
from dataclasses import dataclass
from typing import assert_never

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.prompt import ImagePart, MediaPart, VideoPart
from triptych.models.images import MAX_BYTES, MAX_PIXELS, check_image, content_hash
from triptych.models.pictures.layout import Layouts, MediaLayout


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What one image, or one frame of a video, may be.

    Attributes:
        pixels: Width times height.
        bytes: Encoded.
        frames: Of one video.
    """

    pixels: int = MAX_PIXELS
    bytes: int = MAX_BYTES
    frames: int = 768


def layout_of(part: MediaPart, layouts: Layouts | None, limits: MediaLimits, field: str) -> MediaLayout:
    """What an image or a video becomes in the prompt; no pixel is decoded.

    Raises:
        FailedPrecondition: the model takes no images, or no videos.
        InvalidArgument: not an image, above a limit, frames of several sizes, or a shape that no model takes.
    """
    if layouts is None:
        raise FailedPrecondition(f"the model reads text only; it was sent {field}", field=field)
    match part:
        case ImagePart(data):
            info = check_image(data, max_pixels=limits.pixels, max_bytes=limits.bytes, field=field)
            return layouts.image(*info.upright, field=field)
        case VideoPart(frames, fps):
            width, height = _frame_size(frames, limits, field)
            return layouts.video(len(frames), width, height, fps, field=field)
        case _:
            assert_never(part)


def media_hash(part: MediaPart) -> str:
    """The name of an image or video: 64 hex digits, which depend on nothing but the encoded pictures.

    A video's frames a second move its positions, not its embedding.
    """
    match part:
        case ImagePart(data):
            return content_hash(data)
        case VideoPart(frames):
            return hashlib.sha256(b"video" + b"".join(hashlib.sha256(frame).digest() for frame in frames)).hexdigest()
        case _:
            assert_never(part)


def media_bytes(part: MediaPart) -> int:
    """What an image or video weighs."""
    match part:
        case ImagePart(data):
            return len(data)
        case VideoPart(frames):
            return sum(map(len, frames))
        case _:
            assert_never(part)


def _frame_size(frames: tuple[bytes, ...], limits: MediaLimits, field: str) -> tuple[int, int]:
    if not 1 <= len(frames) <= limits.frames:
        raise InvalidArgument(f"{field} must have 1 to {limits.frames} frames, got {len(frames)}", field=field)
    sizes = [
        check_image(frame, max_pixels=limits.pixels, max_bytes=limits.bytes, field=f"{field}.frames[{place}]").upright
        for place, frame in enumerate(frames)
    ]
    for place, size in enumerate(sizes):
        if size != sizes[0]:
            raise InvalidArgument(
                f"{field}.frames[{place}] must be {sizes[0][0]} x {sizes[0][1]} pixels like the first, "
                f"got {size[0]} x {size[1]}",
                field=f"{field}.frames[{place}]",
            )
    return sizes[0]
