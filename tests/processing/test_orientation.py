import io
import struct
import zlib

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from triptych.core.errors import InvalidArgument
from triptych.models.images import check_image
from triptych.models.orientation import upright, upright_size


def encoded(kind: str, orientation: int) -> bytes:
    image = Image.new("RGB", (30, 20))
    image.putdata([(x, y, 0) for y in range(20) for x in range(30)])
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_header_says_which_way_up(kind: str, orientation: int) -> None:
    data = encoded(kind, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert check_image(data).upright == expected.size
    turned = upright(Image.open(io.BytesIO(data)), data)
    assert turned.tobytes() == expected.tobytes()


def test_a_header_is_read_without_decoding() -> None:
    data = encoded("PNG", 6)
    image = Image.open(io.BytesIO(data[: data.index(b"IDAT") + 4]))
    assert upright_size(image, data) == (20, 30)


def test_exif_data_behind_the_pixels_of_a_png_counts() -> None:
    early = encoded("PNG", 6)
    start = early.index(b"eXIf") - 4
    (length,) = struct.unpack_from(">I", early, start)
    chunk, rest = early[start : start + 12 + length], early[:start] + early[start + 12 + length :]
    end = rest.index(b"IEND") - 4
    late = rest[:end] + chunk + rest[end:]
    assert zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]
    assert check_image(late).upright == ImageOps.exif_transpose(Image.open(io.BytesIO(late))).size == (20, 30)


def test_damaged_exif_data_is_an_error_of_ours() -> None:
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Raw profile type exif", "\nexif\n  2\nno hex\n")
    Image.new("RGB", (3, 2)).save(buffer, "PNG", pnginfo=text)
    with pytest.raises(InvalidArgument, match="picture has damaged EXIF data"):
        check_image(buffer.getvalue(), field="picture")
