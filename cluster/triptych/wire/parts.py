"""Texts, images and videos of a chat message, and their wire form."""

from math import isfinite
from typing import assert_never

from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ImagePart, Part, TextPart, VideoPart
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.data_uri import parse_data_uri


def part_to_proto(part: Part) -> pb.ContentPart:
    """The wire form of a part."""
    match part:
        case TextPart(text):
            return pb.ContentPart(text=text)
        case ImagePart(data):
            return pb.ContentPart(image=pb.Image(data=data))
        case VideoPart(frames, fps):
            return pb.ContentPart(video=pb.Video(frames=[pb.Image(data=frame) for frame in frames], fps=fps))
        case _:
            assert_never(part)


def part_from_proto(field: str, part: pb.ContentPart) -> Part:
    """A part with every data URI decoded.

    Raises:
        InvalidArgument: it holds nothing, broken base64, or a video without frames or speed; names what is at fault.
    """
    match part.WhichOneof("part"):
        case "text":
            return TextPart(part.text)
        case "image":
            return ImagePart(_image(f"{field}.image", part.image))
        case "video":
            return _video(f"{field}.video", part.video)
        case None:
            raise InvalidArgument(f"{field} holds neither text nor an image nor a video", field=field)
        case unknown:
            assert_never(unknown)


def part_bytes(part: pb.ContentPart) -> int:
    """Bytes of a part's pictures, as they came."""
    images = [part.image] if part.HasField("image") else part.video.frames
    return sum(len(image.data) or len(image.data_uri) for image in images)


def _video(field: str, video: pb.Video) -> VideoPart:
    if not video.frames:
        raise InvalidArgument(f"{field} holds no frames", field=f"{field}.frames")
    if not (isfinite(video.fps) and video.fps > 0):
        raise InvalidArgument(f"{field}.fps must be above 0, got {video.fps:g}", field=f"{field}.fps")
    frames = tuple(_image(f"{field}.frames[{place}]", frame) for place, frame in enumerate(video.frames))
    return VideoPart(frames, video.fps)


def _image(field: str, image: pb.Image) -> bytes:
    match image.WhichOneof("source"):
        case "data" if image.data:
            return image.data
        case "data_uri":
            return parse_data_uri(image.data_uri, field=f"{field}.data_uri")
        case _:
            raise InvalidArgument(f"{field} holds no data", field=field)
