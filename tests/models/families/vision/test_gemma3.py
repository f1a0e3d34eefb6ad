"""Gemma 3: one tile, whose tokens see each other in both directions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration


@pytest.mark.family("Gemma3ForConditionalGeneration")
def test_pictures_are_seen_as_by_transformers(
    case: Any, seeing: Any, text: Any, vision: Any, tiles: Callable[..., torch.Tensor]
) -> None:
    config: Any = Gemma3Config(
        text_config=text(
            "gemma3_text",
            sliding_window=21,
            query_pre_attn_scalar=12,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        vision_config=vision(model_type="siglip_vision_model", image_size=24, patch_size=3),
        mm_tokens_per_image=16,
        image_token_index=95,
        boi_token_index=96,
        eoi_token_index=97,
    )

    def inputs(images: Any, ids: torch.Tensor) -> dict[str, Any]:
        return {"pixel_values": tiles(images, 1)[:, 0], "token_type_ids": (ids == 95).long()}

    def features(model: Any, given: dict[str, Any]) -> Any:
        return model.get_image_features(given["pixel_values"]).pooler_output, ()

    settings = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 24, "width": 24}}
    seeing(case(Gemma3ForConditionalGeneration(config), settings, inputs, features), [(30, 20), (7, 40)])
