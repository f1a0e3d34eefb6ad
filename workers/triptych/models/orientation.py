"""Which way up a picture is, from its header alone."""

import struct
from collections.abc import Iterator
from typing import Final

from PIL import ExifTags, Image

_METHODS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF tag Orientation (JEITA CP-3451, 4.6.4)."""

_SIDEWAYS: Final = (5, 6, 7, 8)


def upright_size(image: Image.Image, data: bytes) -> tuple[int, int]:
    """Width and height of `upright(image, data)`, without decoding it.

    Args:
        image: Opened, not loaded.
        data: The file it was opened from.
    """
    width, height = image.size
    return (height, width) if _orientation(image, data) in _SIDEWAYS else (width, height)


def upright(image: Image.Image, data: bytes) -> Image.Image:
    """The picture as the camera was meant to be held; arguments as `upright_size`."""
    method = _METHODS.get(_orientation(image, data))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image, data: bytes) -> int:
    # Pillow would decode a PNG to find the EXIF data that may follow its pixels.
    if image.format == "PNG" and "exif" not in image.info and (late := b"".join(_chunks(data, b"eXIf"))):
        image.info["exif"] = b"Exif\x00\x00" + late
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) else 1


def _chunks(data: bytes, kind: bytes) -> Iterator[bytes]:
    """The contents of a PNG's chunks of one kind."""
    place = 8
    while place + 8 <= len(data):
        length, found = struct.unpack_from(">I4s", data, place)
        if found == kind:
            yield data[place + 8 : place + 8 + length]
        place += 12 + length
