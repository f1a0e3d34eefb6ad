"""Idefics3 and SmolVLM: tiles by row and column, and the whole picture."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)


@pytest.mark.parametrize(
    ("config", "model", "kind"),
    [
        pytest.param(
            Idefics3Config,
            Idefics3ForConditionalGeneration,
            "Idefics3ImageProcessor",
            marks=pytest.mark.family("Idefics3ForConditionalGeneration"),
        ),
        pytest.param(
            SmolVLMConfig,
            SmolVLMForConditionalGeneration,
            "SmolVLMImageProcessorFast",
            marks=pytest.mark.family("SmolVLMForConditionalGeneration"),
        ),
    ],
)
def test_pictures_are_seen_as_by_transformers(
    config: Any, model: Any, kind: str, case: Any, seeing: Any, text: Any, vision: Any
) -> None:
    made = config(
        text_config=text("llama"),
        vision_config=vision(image_size=16, patch_size=4),
        scale_factor=2,
        image_token_id=95,
    )
    settings = {
        "image_processor_type": kind,
        "size": {"longest_edge": 48},
        "max_image_size": {"longest_edge": 16},
    }

    def inputs(images: Any, ids: torch.Tensor) -> dict[str, Any]:
        return {"pixel_values": torch.from_numpy(np.concatenate([image.pixels for image in images]))[None]}

    def features(model: Any, given: dict[str, Any]) -> tuple[list[torch.Tensor], tuple[()]]:
        (rows,) = model.get_image_features(**given).pooler_output
        return list(rows.split([16, 40])), ()

    seeing(case(model(made), settings, inputs, features), [(50, 16), (30, 40)])
