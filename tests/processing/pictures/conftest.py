"""Every family of vision towers with its settings and transformers' processor of the same."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.support.seeds import drawn_seed
from triptych.models.files import ModelFiles
from triptych.models.spec import (
    BlocksSpec,
    ClipTower,
    DecoderSpec,
    Gemma3Vision,
    Idefics3Vision,
    LlavaNextVision,
    LlavaVision,
    ModelSpec,
    NormSpec,
    PatchGrid,
    ProjectorSpec,
    Qwen3Vision,
    Qwen25Vision,
    SiglipTower,
    VideoTokens,
    VisionSpec,
)

TOKENS = {
    "image_token": "<image>",
    "video_token": "<|video_pad|>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
OTHERS = ["<fake_token_around_image>", "<global-img>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2, 3))]
RESOLUTIONS = ((32, 64), (64, 32), (64, 64), (96, 32))
BLOCKS = BlocksSpec(32, 40, 4, 2, "gelu_tanh", 1e-6)
SQUARE = {"size": {"height": 32, "width": 32}, "do_center_crop": False}


@dataclass(frozen=True)
class Family:
    """One family: its vision spec, preprocessor_config.json, and transformers' processors of images and of all."""

    vision: VisionSpec
    settings: dict[str, Any]
    images: Any
    whole: Callable[[Any, Any], Any]
    placeholder: str = "image_token"


@dataclass(frozen=True)
class Opened:
    """A family with its files, its spec and transformers' processor."""

    files: ModelFiles
    spec: ModelSpec
    reference: Any
    tokenizer: PreTrainedTokenizerFast
    placeholder: str


def without_videos(processor: type) -> type:
    """A processor that does not ask for torchvision, which its part for videos needs."""
    return type(processor.__name__, (processor,), {"check_argument_for_proper_class": lambda *_: None})


def families(token: Callable[[str], int]) -> dict[str, Family]:
    clip, siglip = ClipTower(BLOCKS, 32, 8, 3, False), SiglipTower(BLOCKS, 32, 8, 3)
    projector = ProjectorSpec(48, "gelu", True)
    video = VideoTokens(token("video_token"), token("vision_start_token"), token("vision_end_token"))
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    qwen = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 4, "size": pixels}
    split = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    idefics3 = Idefics3Vision(siglip, 48, 2)
    return {
        "llava": Family(
            LlavaVision(clip, projector),
            {"image_processor_type": "CLIPImageProcessor", **SQUARE},
            CLIPImageProcessorPil,
            lambda images, tokenizer: LlavaProcessor(  # type: ignore[no-untyped-call]
                images,
                tokenizer,
                patch_size=8,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
            ),
        ),
        "llava_next": Family(
            LlavaNextVision(clip, projector, RESOLUTIONS),
            {
                "image_processor_type": "LlavaNextImageProcessor",
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32},
                "image_grid_pinpoints": [list(pair) for pair in RESOLUTIONS],
            },
            LlavaNextImageProcessorPil,
            lambda images, tokenizer: LlavaNextProcessor(  # type: ignore[no-untyped-call]
                images,
                tokenizer,
                patch_size=8,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
            ),
        ),
        "idefics3": Family(
            idefics3,
            {"image_processor_type": "Idefics3ImageProcessor", **split},
            Idefics3ImageProcessorPil,
            lambda images, tokenizer: Idefics3Processor(images, tokenizer, image_seq_len=4),
        ),
        "smolvlm, not split": Family(
            idefics3,
            {"image_processor_type": "SmolVLMImageProcessorFast", **split, "do_image_splitting": False},
            Idefics3ImageProcessorPil,
            lambda images, tokenizer: Idefics3Processor(images, tokenizer, image_seq_len=4),
        ),
        "gemma3": Family(
            Gemma3Vision(siglip, 48, 2, token("boi_token"), token("eoi_token")),
            {"image_processor_type": "Gemma3ImageProcessor", "size": SQUARE["size"], "do_pan_and_scan": None},
            Gemma3ImageProcessorPil,
            lambda images, tokenizer: Gemma3Processor(images, tokenizer, image_seq_length=4),
            "boi_token",
        ),
        "qwen2_5_vl": Family(
            Qwen25Vision(BLOCKS, PatchGrid(4, 2, 2, 3), 48, 1e4, 3, frozenset({1}), 2.0, video),
            qwen,
            Qwen2VLImageProcessorPil,
            without_videos(Qwen2_5_VLProcessor),
        ),
        "qwen3_vl": Family(
            Qwen3Vision(BLOCKS, PatchGrid(4, 2, 2, 3), 48, 1e4, 6, (0,), video),
            {**qwen, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            Qwen2VLImageProcessorPil,
            without_videos(Qwen3VLProcessor),
        ),
    }


NAMES = tuple(families(lambda _: 0))


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest, open_family: Callable[[str], Opened]) -> Opened:
    """Every family in turn."""
    return open_family(request.param)


@pytest.fixture
def open_family(byte_level: Tokenizer, tmp_path: Path) -> Callable[[str], Opened]:
    """A family by name."""

    def opened(name: str) -> Opened:
        tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=Tokenizer.from_str(byte_level.to_str()),
            extra_special_tokens=TOKENS,
            additional_special_tokens=OTHERS,
        )
        chosen = families(lambda token: tokenizer.convert_tokens_to_ids(TOKENS[token]))[name]
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(chosen.settings))
        spec = ModelSpec(
            architecture="Tiny",
            decoder=DecoderSpec(len(tokenizer), 48, (), NormSpec(1e-5), True),
            vision=chosen.vision,
            image_token_id=tokenizer.image_token_id,
            eos_token_ids=(),
            context_length=512,
        )
        reference = chosen.whole(chosen.images.from_dict(dict(chosen.settings)), tokenizer)
        files = ModelFiles("tiny", tmp_path, "safetensors")
        return Opened(files, spec, reference, tokenizer, TOKENS[chosen.placeholder])

    return opened


@pytest.fixture
def picture() -> Callable[[int, int], bytes]:
    """A PNG of noise."""

    def make(width: int, height: int) -> bytes:
        seed = drawn_seed()
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        return buffer.getvalue()

    return make
