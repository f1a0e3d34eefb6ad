"""LLaVA against transformers: vision tower, projector, and images within a prompt."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from triptych.core.errors import InvalidArgument
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.pictures import MediaLayout, Rows, Tiles
from triptych.models.spec import LlavaVision, ModelSpec, read_spec
from triptych.models.towers.encoder import VisionEncoder

Config = Callable[..., LlavaConfig]
Saved = Callable[..., ModelFiles]

IMAGE_TOKEN = 90

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "class_token_kept": {"vision_feature_select_strategy": "full"},
    "last_layer": {"vision_feature_layer": -1},
    "first_layer": {"vision_feature_layer": 1},
    "gelu": {"vision": {"hidden_act": "gelu"}},
    "projector_without_bias": {"multimodal_projector_bias": False},
    "quick_projector": {"projector_hidden_act": "quick_gelu"},
    "square": {"vision": {"image_size": 20}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_embeddings_equal_transformers(variant: str, llava_config: Config, saved: Saved) -> None:
    model = LlavaForConditionalGeneration(llava_config(**VARIANTS[variant]))
    files = saved(model)
    spec = read_spec(files)
    assert isinstance(spec.vision, LlavaVision)
    pixels = torch.randn(3, 3, spec.vision.tower.image_size, spec.vision.tower.image_size)
    with torch.no_grad():
        expected = torch.stack(list(model.model.get_image_features(pixels).pooler_output))
    found = encoded(files, spec, pixels)
    assert found.shape == (3, spec.vision.rows, spec.decoder.hidden_size)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_with_images_equal_transformers(
    images: int, tied: bool, llava_config: Config, saved: Saved, paged: Callable[..., Any]
) -> None:
    model = LlavaForConditionalGeneration(llava_config(tie_word_embeddings=tied))
    files = saved(model)
    spec = read_spec(files)
    assert spec.decoder.tied_head == tied
    found, expected = ask_about_images(model, files, spec, images, paged)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def encoded(files: ModelFiles, spec: ModelSpec, pixels: torch.Tensor) -> torch.Tensor:
    """[N, rows, H] of pictures [N, C, S, S]."""
    layout = MediaLayout(IMAGE_TOKEN, (Rows(1),), 1)
    images = [Tiles(picture[None].numpy(), layout, (1, 1)) for picture in pixels]
    return torch.cat(VisionEncoder.load(files, spec, torch.float32).encode(images))


def ask_about_images(
    model: LlavaForConditionalGeneration, files: ModelFiles, spec: ModelSpec, images: int, paged: Callable[..., Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our logits and transformers' of a 70-token prompt with images from token 20 on, cut by a chunk border."""
    assert isinstance(spec.vision, LlavaVision)
    assert spec.image_token_id is not None
    prompt, rows = torch.randint(90, (70,)), images * spec.vision.rows
    prompt[20 : 20 + rows] = spec.image_token_id
    pixels = torch.randn(images, 3, 18, 18)
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0), pixel_values=pixels).logits[0]
    embeddings = encoded(files, spec, pixels).flatten(0, 1)
    sequence = paged(Decoder.load(files, spec, torch.float32))
    return sequence.feed_chunks(prompt, 24, embeddings, row=20), expected


@pytest.mark.parametrize(
    ("renamed"),
    [
        {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head.",
         "vision_tower.": "model.vision_tower.", "multi_modal_projector.": "model.multi_modal_projector."},
        {"vision_tower.": "vision_tower.vision_model."},
    ],
    ids=["model_first", "vision_model"],
)  # fmt: skip
def test_names_of_other_transformers_versions_are_read(
    renamed: dict[str, str], llava_config: Config, saved: Saved, paged: Callable[..., Any]
) -> None:
    model = LlavaForConditionalGeneration(llava_config())
    files = saved(model)
    tensors = load_file(files.path / "model.safetensors")
    for old, new in renamed.items():
        tensors = {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in tensors.items()}
    save_file(tensors, files.path / "model.safetensors")
    found, expected = ask_about_images(model, files, read_spec(files), 1, paged)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_each_side_opens_only_the_shards_with_its_own_tensors(llava_config: Config, saved: Saved) -> None:
    files = saved(LlavaForConditionalGeneration(llava_config()), max_shard_size="4KB")
    places: dict[str, str] = json.loads((files.path / "model.safetensors.index.json").read_text())["weight_map"]
    vision = {shard for name, shard in places.items() if name.startswith(("vision_tower.", "multi_modal_projector."))}
    language = {shard for name, shard in places.items() if name.startswith("language_model.")}
    spec = read_spec(files)
    for shard in language - vision:
        (files.path / shard).rename(files.path / f"{shard}.away")
    encoded(files, spec, torch.randn(1, 3, 18, 18))
    for shard in language - vision:
        (files.path / f"{shard}.away").rename(files.path / shard)
    for shard in vision - language:
        (files.path / shard).unlink()
    Decoder.load(files, spec, torch.float32)
    assert vision - language
    assert language - vision


def test_pixels_of_another_size_are_refused(llava_config: Config, saved: Saved) -> None:
    files = saved(LlavaForConditionalGeneration(llava_config()))
    with pytest.raises(InvalidArgument, match=r"\[N, 3, 18, 18\], got \[1, 3, 20, 18\]"):
        encoded(files, read_spec(files), torch.zeros(1, 3, 20, 18))
