import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.models.pictures import MediaLayout, Patches, PreparedImage, Rows, Token, open_layouts, open_preprocessor
from triptych.models.pictures.prepared import Pixels

SIZES = [(100, 37), (20, 90), (300, 4), (5, 500), (64, 64), (1, 1), (97, 31)]


def spelled(layout: MediaLayout, tokenizer: Any) -> str:
    text = ""
    for piece in layout.pieces:
        match piece:
            case str():
                text += piece
            case Token(id):
                text += tokenizer.convert_ids_to_tokens(id)
            case Rows(count):
                text += tokenizer.convert_ids_to_tokens(layout.token_id) * count
    return text


def pixels_of(batch: Any, index: int, image: PreparedImage) -> Pixels:
    """Those of one picture in what transformers' processor gives for several."""
    pixels: Pixels = np.asarray(batch["pixel_values"], np.float32)
    if isinstance(image, Patches):
        counts = [int(np.prod(grid)) for grid in batch["image_grid_thw"]]
        return pixels[sum(counts[:index]) : sum(counts[: index + 1])]
    if "rows" in batch or (pixels.ndim == 5 and len(pixels) == 1):  # one row of tiles for all pictures of a prompt
        return np.concatenate(pixels)
    return np.concatenate(pixels[index : index + 1]).reshape(-1, *pixels.shape[-3:])[: len(image.pixels)]


def read(data: Sequence[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(one)) for one in data]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_has_the_pixels_and_the_tokens_of_the_familys_own_processor(
    family: Any, picture: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    data = picture(*size)
    text = f"See:\n{family.placeholder}\n here"
    expected = family.reference(text=text, images=read([data]), return_tensors="np")
    image = open_preprocessor(family.files, family.spec).image(data)
    np.testing.assert_array_equal(image.pixels, pixels_of(expected, 0, image))
    layouts = open_layouts(family.files, family.spec)
    assert layouts is not None
    assert image.layout == layouts.image(*size)
    assert family.tokenizer.convert_ids_to_tokens(layouts.image_placeholder) == family.placeholder
    ours = text.replace(family.placeholder, spelled(image.layout, family.tokenizer))
    ids = expected["input_ids"][0].tolist()
    assert family.tokenizer(ours)["input_ids"] == ids
    assert ids.count(family.spec.image_token_id) == image.layout.rows
    assert sum(grid.rows for grid in image.layout.grids) in (0, image.layout.rows)


def test_two_pictures_of_a_request_are_each_as_if_alone(family: Any, picture: Callable[[int, int], bytes]) -> None:
    data = [picture(70, 30), picture(20, 33)]
    text = f"{family.placeholder} and {family.placeholder}"
    expected = family.reference(text=text, images=read(data), return_tensors="np")
    preprocessor = open_preprocessor(family.files, family.spec)
    images = [preprocessor.image(one) for one in data]
    first, middle, last = (spelled(image.layout, family.tokenizer) for image in images), " and ", ""
    assert family.tokenizer(middle.join(first) + last)["input_ids"] == expected["input_ids"][0].tolist()
    if family.spec.vision.__class__.__name__ == "Idefics3Vision":  # one row of tiles for both
        together = np.concatenate([image.pixels for image in images])
        np.testing.assert_array_equal(together, np.asarray(expected["pixel_values"], np.float32)[0])
        return
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image.pixels, pixels_of(expected, index, image))


@pytest.mark.parametrize("mode", ["L PNG", "1 PNG", "LA PNG", "RGBA PNG", "P GIF", "CMYK JPEG", "I;16 PNG"])
def test_pictures_of_any_mode_have_the_pixels_of_the_familys_own_processor(
    family: Any, picture: Callable[[int, int], bytes], mode: str
) -> None:
    kind, coding = mode.split()
    (image,) = read([picture(41, 30)])
    buffer = io.BytesIO()
    (image.quantize(16) if kind == "P" else image.convert("L").convert(kind)).save(buffer, coding)
    data = buffer.getvalue()
    expected = family.reference(text=family.placeholder, images=read([data]), return_tensors="np")
    ours = open_preprocessor(family.files, family.spec).image(data)
    np.testing.assert_array_equal(ours.pixels, pixels_of(expected, 0, ours))


def test_a_picture_held_sideways_is_laid_out_upright(family: Any, picture: Callable[[int, int], bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    stored, turned = io.BytesIO(), io.BytesIO()
    (image,) = read([picture(90, 30)])
    image.save(stored, "PNG", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(turned, "PNG")
    preprocessor = open_preprocessor(family.files, family.spec)
    sideways, upright = (preprocessor.image(file.getvalue()) for file in (stored, turned))
    assert sideways.layout == upright.layout == preprocessor.layouts.image(30, 90)
    np.testing.assert_array_equal(sideways.pixels, upright.pixels)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_thread_is_no_picture(
    open_family: Callable[[str], Any], picture: Callable[[int, int], bytes], name: str
) -> None:
    family = open_family(name)
    with pytest.raises(InvalidArgument, match="at most 200 times as long as wide, got 1 x 201 pixels") as caught:
        open_preprocessor(family.files, family.spec).image(picture(1, 201), field="chat.messages[0].parts[1]")
    assert caught.value.field == "chat.messages[0].parts[1]"


@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3", "gemma3"])
def test_a_video_is_refused_by_models_that_take_pictures(open_family: Callable[[str], Any], name: str) -> None:
    family = open_family(name)
    preprocessor = open_preprocessor(family.files, family.spec)
    assert preprocessor.layouts.video_placeholder is None
    for refused in (lambda: preprocessor.video([b""], 2.0), lambda: preprocessor.layouts.video(4, 8, 8, 2.0)):
        with pytest.raises(FailedPrecondition, match="video is a video, and the model takes pictures only"):
            refused()
