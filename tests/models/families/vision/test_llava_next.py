"""LLaVA-NeXT: tiles of several resolutions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

RESOLUTIONS = [[16, 32], [32, 16], [32, 32], [48, 16]]


@pytest.mark.family("LlavaNextForConditionalGeneration")
@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("sizes", [[(50, 18), (9, 31)], [(40, 40), (3, 200)]])
def test_pictures_are_seen_as_by_transformers(
    kind: str, sizes: Any, case: Any, seeing: Any, text: Any, vision: Any, tiles: Callable[..., torch.Tensor]
) -> None:
    config = LlavaNextConfig(
        text_config=text(kind),
        vision_config=vision(model_type="clip_vision_model", image_size=16, patch_size=4),
        image_grid_pinpoints=RESOLUTIONS,
        image_token_index=95,
    )

    def inputs(images: Any, ids: torch.Tensor) -> dict[str, Any]:
        return {"pixel_values": tiles(images), "image_sizes": torch.tensor([image.size[::-1] for image in images])}

    settings = {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
    }
    model = LlavaNextForConditionalGeneration(config)
    seeing(case(model, settings, inputs, lambda m, given: (m.get_image_features(**given).pooler_output, ())), sizes)
