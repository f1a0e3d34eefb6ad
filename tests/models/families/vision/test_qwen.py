"""Qwen2.5-VL and Qwen3-VL: patches of pictures of any size, and of videos; three positions of every token."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
TOKENS: Any = {"image_token_id": 95, "video_token_id": 96, "vision_start_token_id": 97, "vision_end_token_id": 98}
SETTINGS = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 4,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 48 * 48},
}
FPS = 1.7

Case = Callable[..., Any]


@pytest.fixture
def qwen2_5(case: Case, text: Any) -> Any:
    config = Qwen2_5_VLConfig(
        text_config=text("qwen2_5_vl_text", rope_parameters=ROPE),
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "patch_size": 4,
            "window_size": 24, "out_hidden_size": 48, "fullatt_block_indexes": [1, 3], "initializer_range": 0.2,
            "tokens_per_second": 3,
        },
        **TOKENS,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    return case(model, SETTINGS, inputs, lambda m, given: (features(m, given).pooler_output, ()))


@pytest.fixture
def qwen3(case: Case, text: Any) -> Any:
    config = Qwen3VLConfig(
        text_config=text("qwen3_vl_text", rope_parameters=ROPE),
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "patch_size": 4,
            "out_hidden_size": 48, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2],
            "initializer_range": 0.2,
        },
        **TOKENS,
    )  # fmt: skip

    def levels(model: Any, given: dict[str, Any]) -> Any:
        found = features(model, given)
        return found.pooler_output, found.deepstack_features

    def without_seconds(images: Any, ids: torch.Tensor) -> dict[str, Any]:
        return {name: value for name, value in inputs(images, ids).items() if name != "second_per_grid_ts"}

    return case(Qwen3VLForConditionalGeneration(config), SETTINGS, without_seconds, levels)


def inputs(images: Any, ids: torch.Tensor) -> dict[str, Any]:
    pixels = torch.from_numpy(np.concatenate([image.pixels for image in images]))
    grids = torch.tensor([image.grid for image in images])
    kinds = (ids == 95).int() + 2 * (ids == 96).int()
    if images[0].layout.token_id == 95:
        return {"pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": kinds}
    return {
        "pixel_values_videos": pixels,
        "video_grid_thw": grids,
        "mm_token_type_ids": kinds,
        "second_per_grid_ts": torch.tensor([2 / FPS]),
    }


def features(model: Any, given: dict[str, Any]) -> Any:
    if "pixel_values" in given:
        return model.get_image_features(given["pixel_values"], given["image_grid_thw"])
    return model.get_video_features(given["pixel_values_videos"], given["video_grid_thw"])


@pytest.mark.family("Qwen2_5_VLForConditionalGeneration")
@pytest.mark.parametrize("sizes", [[(60, 33), (20, 47)], [(48, 9), (16, 16)]])
def test_qwen2_5_vl_sees_pictures_as_transformers_does(sizes: Any, qwen2_5: Any, seeing: Any) -> None:
    seeing(qwen2_5, sizes)


@pytest.mark.family("Qwen3VLForConditionalGeneration")
@pytest.mark.parametrize("sizes", [[(60, 33), (20, 47)], [(48, 9), (16, 16)]])
def test_qwen3_vl_sees_pictures_as_transformers_does(sizes: Any, qwen3: Any, seeing: Any) -> None:
    seeing(qwen3, sizes)


@pytest.mark.family("Qwen2_5_VLForConditionalGeneration")
def test_qwen2_5_vl_sees_a_video_as_transformers_does(qwen2_5: Any, seeing: Any) -> None:
    seeing(qwen2_5, video=(5, (30, 22), FPS))


@pytest.mark.family("Qwen3VLForConditionalGeneration")
def test_qwen3_vl_sees_a_video_as_transformers_does(qwen3: Any, seeing: Any) -> None:
    seeing(qwen3, video=(5, (40, 30), FPS), ranks=(2, 4))
