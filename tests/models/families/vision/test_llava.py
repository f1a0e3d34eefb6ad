"""LLaVA: one tile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration


@pytest.mark.family("LlavaForConditionalGeneration")
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_pictures_are_seen_as_by_transformers(
    kind: str, case: Any, seeing: Any, text: Any, vision: Any, tiles: Callable[..., torch.Tensor]
) -> None:
    config = LlavaConfig(
        text_config=text(kind),
        vision_config=vision(model_type="clip_vision_model", image_size=18, patch_size=5),
        image_token_index=95,
    )
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": 18, "width": 18},
        "do_center_crop": False,
    }
    case = case(
        LlavaForConditionalGeneration(config),
        settings,
        lambda images, ids: {"pixel_values": tiles(images, 1)[:, 0]},
        lambda model, given: (model.get_image_features(**given).pooler_output, ()),
    )
    seeing(case, [(30, 20), (7, 40)])
