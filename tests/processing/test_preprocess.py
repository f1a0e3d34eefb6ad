import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.support.seeds import drawn_seed
from triptych.core.errors import FailedPrecondition, InvalidArgument, Unimplemented
from triptych.models.files import ModelFiles
from triptych.models.pictures import MediaLayout, Rows, open_preprocessor
from triptych.models.pictures.prepared import Pixels
from triptych.models.pictures.tile_layouts import TileLayouts
from triptych.models.pictures.tile_preprocessor import TilePreprocessor
from triptych.models.spec import ModelSpec

CROPPED: dict[str, Any] = {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}
SCALED: dict[str, Any] = {
    "size": {"height": 32, "width": 32},
    "do_center_crop": False,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 2,
}


MODES = (
    *("RGB PNG", "RGB JPEG", "RGB BMP", "L PNG", "1 PNG", "LA PNG", "RGBA PNG", "RGBA WEBP", "P GIF", "P PNG"),
    *("CMYK JPEG", "I;16 PNG"),
)


def picture(mode: str = "RGB", size: tuple[int, int] = (37, 53)) -> Image.Image:
    seed = drawn_seed()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "P":
        return Image.fromarray(noise, "RGBA").convert("RGB").quantize(16)
    return Image.fromarray(noise, "RGBA").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_row(token_id: int, width: int, height: int) -> MediaLayout:
    return MediaLayout(token_id, (Rows(1),), 1)


def pixels_of(data: bytes, field: str = "image", **settings: Any) -> Pixels:
    layouts = TileLayouts(0, 0, one_row)
    tile: Pixels = TilePreprocessor(layouts, CLIPImageProcessorPil(**settings)).image(data, field=field).pixels[0]
    return tile


@pytest.mark.parametrize("settings", [CROPPED, SCALED], ids=["cropped", "scaled"])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [mode_and_kind.split() for mode_and_kind in MODES],
)
def test_pixels_are_those_of_the_llava_processor(
    byte_level: Tokenizer, mode: str, kind: str, settings: dict[str, Any]
) -> None:
    data = encoded(picture(mode), kind)
    reference: Any = LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessorPil(**settings),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=byte_level),  # type: ignore[no-untyped-call]
        patch_size=4,
    )
    expected = reference(text="<image>", images=Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    pixels = pixels_of(data, **settings)
    assert pixels.dtype == np.float32
    assert pixels.shape == expected.shape == ((3, 20, 20) if settings is CROPPED else (3, 32, 32))
    np.testing.assert_array_equal(pixels, expected)


def test_a_camera_held_sideways_is_turned_upright() -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    turned = pixels_of(encoded(image, exif=exif), **SCALED)
    upright = encoded(image.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(turned, pixels_of(upright, **SCALED))


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    first, *others = (picture("RGB", (24, 24)).quantize(8).convert("RGB") for _ in range(3))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    still = encoded(first, kind, **options)
    moving = encoded(first, kind, save_all=True, append_images=others, **options)
    assert len(moving) > len(still)
    np.testing.assert_array_equal(pixels_of(moving, **SCALED), pixels_of(still, **SCALED))


def test_transparency_shows_white() -> None:
    pixels = pixels_of(encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0))), **SCALED)
    np.testing.assert_array_equal(pixels, np.ones((3, 32, 32), dtype=np.float32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_pixels_that_are_cut_off_are_an_error_of_ours(kind: str) -> None:
    data = encoded(picture("RGB", (200, 200)), kind)
    with pytest.raises(InvalidArgument, match="damaged") as caught:
        pixels_of(data[: len(data) // 2], field="chat.messages[0].parts[1]", **SCALED)
    assert caught.value.field == "chat.messages[0].parts[1]"


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), seed=st.integers(0, 2**32))
def test_damaged_bytes_are_pixels_or_an_error_of_ours(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    data = bytearray(encoded(Image.new("RGB", (30, 20), (200, 100, 50)), kind))
    for _ in range(dice.randrange(1, 20)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    try:
        pixels = pixels_of(bytes(data), **SCALED)
    except InvalidArgument:
        return
    assert pixels.shape == (3, 32, 32)


def test_settings_come_from_either_file_and_the_newer_wins(tmp_path: Path, spec: ModelSpec) -> None:
    files = ModelFiles("tiny", tmp_path, "safetensors")
    data = encoded(picture())
    with pytest.raises(FailedPrecondition, match=r"neither preprocessor_config\.json nor an image processor"):
        open_preprocessor(files, spec)
    old = {"image_processor_type": "CLIPImageProcessor", **CROPPED}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    (tmp_path / "processor_config.json").write_text(json.dumps({"patch_size": 4}))
    assert open_preprocessor(files, spec).image(data).pixels.shape == (1, 3, 20, 20)
    new = {"image_processor": {"image_processor_type": "CLIPImageProcessor", **SCALED}, "patch_size": 4}
    (tmp_path / "processor_config.json").write_text(json.dumps(new))
    np.testing.assert_array_equal(open_preprocessor(files, spec).image(data).pixels[0], pixels_of(data, **SCALED))


def test_another_image_processor_is_named(tmp_path: Path, spec: ModelSpec) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "SiglipImageProcessor"}')
    with pytest.raises(Unimplemented, match="SiglipImageProcessor; its family is known with CLIPImageProcessor"):
        open_preprocessor(ModelFiles("tiny", tmp_path, "safetensors"), spec)
    with pytest.raises(FailedPrecondition, match="GGUF"):
        open_preprocessor(ModelFiles("tiny", tmp_path / "m.gguf", "gguf"), spec)


@pytest.fixture
def spec(byte_level: Tokenizer, make_spec: Callable[..., ModelSpec]) -> ModelSpec:
    """Of a LLaVA."""
    return make_spec(byte_level, images=True)
