"""Encoded images, judged by their headers before anything decodes them. No torch."""

import hashlib
import io
from dataclasses import dataclass
from typing import Final

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from triptych.core.errors import InvalidArgument
from triptych.models.orientation import upright_size

MAX_PIXELS: Final = 50_000_000
"""The largest pictures that telephones take; decoding one takes 14 bytes of memory a pixel for a moment."""

MAX_BYTES: Final = 20 * 2**20

PIXEL_CEILING: Final = 178_956_970
"""Where Pillow itself sees a decompression bomb; nothing above it is decoded, whatever a caller allows."""

_FORMATS: Final[tuple[tuple[bytes, type[ImageFile]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header of an image says.

    Attributes:
        format: "PNG", "JPEG", "WEBP", "GIF" or "BMP".
        width: In pixels, as stored: before any rotation that the file asks for.
        height: In pixels.
        upright: Width and height after it.
    """

    format: str
    width: int
    height: int
    upright: tuple[int, int]


def check_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, field: str = "image"
) -> ImageInfo:
    """Reads the header of an image; the pixels stay unread, so a decompression bomb costs nothing.

    Raises:
        InvalidArgument: too many bytes or pixels, no known format, or a damaged header.
    """
    if len(data) > max_bytes:
        raise InvalidArgument(f"{field} may have at most {max_bytes} bytes, got {len(data)}", field=field)
    try:
        image = open_image(data, field=field)
    except DecompressionBombError as error:
        raise InvalidArgument(f"{field} may have at most {max_pixels} pixels: {error}", field=field) from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidArgument(
            f"{field} may have at most {max_pixels} pixels, got {width} x {height} = {width * height}", field=field
        )
    try:
        return ImageInfo(image.format or "", width, height, upright_size(image, data))
    except Exception as error:  # parsers meet hostile bytes with errors of any class
        raise InvalidArgument(f"{field} has damaged EXIF data: {error}", field=field) from error


def open_image(data: bytes, *, field: str = "image") -> ImageFile:
    """Opens an image without decoding it, by the five parsers that are accepted and no other.

    Raises:
        InvalidArgument: no known format, or a damaged header.
    """
    kind = next((kind for signature, kind in _FORMATS if data.startswith(signature)), None)
    if kind is None:
        raise InvalidArgument(
            f"{field} is not an image: expected PNG, JPEG, WebP, GIF or BMP, got {len(data)} bytes that begin "
            f"with {data[:8]!r}",
            field=field,
        )
    try:
        return kind(io.BytesIO(data))
    except DecompressionBombError:
        raise
    except Exception as error:  # parsers meet hostile bytes with errors of any class
        raise InvalidArgument(
            f"{field} has a damaged or truncated {kind.format} header ({len(data)} bytes): {error}", field=field
        ) from error


def content_hash(data: bytes) -> str:
    """The name of an image: SHA-256 of its encoded bytes, 64 hex digits.

    Embeddings are kept and shared by this name, so it must be one that nobody can forge a second image for.
    """
    return hashlib.sha256(data).hexdigest()
