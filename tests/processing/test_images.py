import hashlib
import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.core.errors import InvalidArgument
from triptych.models.images import PIXEL_CEILING, ImageInfo, check_image, content_hash

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def encoded(kind: str, width: int = 30, height: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_header_says_format_and_size(kind: str) -> None:
    assert check_image(encoded(kind)) == ImageInfo(kind, 30, 20, (30, 20))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am a picture",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded("TIFF"),
        encoded("PPM"),
        encoded("ICO"),
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
    ],
)
def test_what_is_no_accepted_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^chat is not an image|^chat has a damaged") as caught:
        check_image(data, field="chat")
    assert caught.value.field == "chat"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_a_size_or_an_error_of_ours(kind: str) -> None:
    data = encoded(kind)
    with pytest.raises(InvalidArgument, match=f"damaged or truncated {kind} header \\(13 bytes\\)"):
        check_image(data[:13])
    for length in range(0, len(data), 7):
        try:
            assert check_image(data[:length]) == ImageInfo(kind, 30, 20, (30, 20))
        except InvalidArgument:
            continue


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(FORMATS), seed=st.integers(0, 2**32), changes=st.integers(1, 30))
def test_damaged_bytes_are_a_size_or_an_error_of_ours(kind: str, seed: int, changes: int) -> None:
    data, dice = bytearray(encoded(kind)), random.Random(seed)
    for _ in range(changes):
        data[dice.randrange(min(len(data), 200))] = dice.randrange(256)
    try:
        info = check_image(bytes(data))
    except InvalidArgument:
        return
    assert info.width * info.height > 0


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = png_header(100_000, 100_000)
    assert len(bomb) < 200
    with pytest.raises(InvalidArgument, match=r"at most 50000000 pixels, got 100000 x 100000 = 10000000000"):
        check_image(bomb)
    with pytest.raises(InvalidArgument, match=r"at most 599 pixels, got 30 x 20 = 600"):
        check_image(encoded("PNG"), max_pixels=599)
    assert check_image(encoded("PNG"), max_pixels=600)
    assert check_image(png_header(PIXEL_CEILING, 1), max_pixels=PIXEL_CEILING)


def test_a_frame_larger_than_its_animation_is_refused() -> None:
    data = bytearray(encoded("GIF"))
    frame = data.index(b",\x00\x00\x00\x00")  # the image descriptor: left, top, width, height
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(InvalidArgument, match="at most 50000000 pixels"):
        check_image(bytes(data))


def test_an_image_without_pixels_is_refused() -> None:
    for width, height in ((0, 5), (5, 0)):
        with pytest.raises(InvalidArgument):
            check_image(png_header(width, height))


def test_too_many_bytes_are_refused_with_limit_and_value() -> None:
    data = encoded("PNG")
    assert check_image(data, max_bytes=len(data))
    with pytest.raises(InvalidArgument, match=f"at most {len(data) - 1} bytes, got {len(data)}"):
        check_image(data, max_bytes=len(data) - 1)


def test_an_image_is_named_by_its_bytes() -> None:
    data = encoded("PNG")
    assert content_hash(data) == hashlib.sha256(data).hexdigest()
    assert content_hash(data) != content_hash(data + b"\0")
