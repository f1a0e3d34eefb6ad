"""Layouts of pictures of any size against the sizes that transformers' processors come to."""

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaNextProcessor, Qwen3VLProcessor
from transformers.image_utils import SizeDict
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from triptych.core.errors import InvalidArgument, TriptychError
from triptych.models.pictures import Rows, Token, open_layouts
from triptych.models.pictures.resizing import PixelBudget
from triptych.models.pictures.splitting import Splitting
from triptych.models.pictures.tile_layouts import LlavaNextArrangement
from triptych.models.spec import BlocksSpec, ClipTower, LlavaNextVision, ProjectorSpec

EDGES = st.integers(1, 6000)
RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


class Sizes(Idefics3ImageProcessorPil):
    """The sizes of pictures, without the work."""

    def resize(self, image: Any, size: Any, resample: Any = None, **_: Any) -> Any:  # type: ignore[override]
        edges = (size.height, size.width)
        if size.longest_edge:
            edges = get_resize_output_image_size(image, resolution_max_side=size.longest_edge)
        return np.broadcast_to(np.zeros(1, np.uint8), (3, *edges))


@settings(max_examples=300, deadline=None)
@given(width=EDGES, height=EDGES, edge=st.sampled_from([(2048, 512), (1536, 512), (1456, 364), (512, 512)]))
def test_idefics3_cuts_as_its_processor_does(width: int, height: int, edge: tuple[int, int]) -> None:
    longest, tile = edge
    processor = Sizes()
    sizes = SizeDict(longest_edge=longest)
    image = processor.resize(np.broadcast_to(np.zeros(1, np.uint8), (3, height, width)), sizes)
    image = processor.resize_for_vision_encoder(image, tile)
    _, rows, columns = processor.split_images(image, {"longest_edge": tile})
    assert Splitting(longest, tile, split=True).tiles(width, height) == (rows, columns)
    assert Splitting(longest, tile, split=False).tiles(width, height) == (0, 0)


@settings(max_examples=300, deadline=None)
@given(width=EDGES, height=EDGES)
def test_llava_next_counts_as_its_processor_does(width: int, height: int) -> None:
    tower = ClipTower(BlocksSpec(8, 8, 2, 1, "gelu", 1e-5), 336, 14, 3, keep_class_token=False)
    spec = LlavaNextVision(tower, ProjectorSpec(8, "gelu", True), RESOLUTIONS)
    reference: Any = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=[list(pair) for pair in RESOLUTIONS]),
        patch_size=14,
        num_additional_image_tokens=0,
    )
    for name in ("_get_number_of_features", "_get_unpadded_features"):
        setattr(reference, name, getattr(LlavaNextProcessor, name).__get__(reference))
    layout = LlavaNextArrangement(spec)(5, width, height)
    assert layout.rows == reference._get_number_of_features(height, width, 336, 336)
    assert layout.patches % 576 == 0


@settings(max_examples=300, deadline=None)
@given(width=EDGES, height=EDGES, least=st.integers(1, 200), most=st.integers(200, 20000))
def test_qwen_scales_as_its_processor_does(width: int, height: int, least: int, most: int) -> None:
    budget = PixelBudget(least * 784, most * 784)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(InvalidArgument, match="at most 200 times as long as wide"):
            budget.fit(width, height, 28, "image")
        return
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": least * 784, "longest_edge": most * 784})
    wide, high = budget.fit(width, height, 28, "image")
    assert wide * high // 196 == processor.get_number_of_image_patches(height, width)


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_qwen3_vl_writes_the_seconds_of_a_video_as_its_processor_does(
    open_family: Callable[[str], Any], frames: int
) -> None:
    family = open_family("qwen3_vl")
    layouts = open_layouts(family.files, family.spec)
    assert layouts is not None
    fps = 1.7
    layout = layouts.video(frames, 40, 24, fps)
    steps, rows = len(layout.grids), layout.grids[0].rows
    reference: Any = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token=family.tokenizer.vision_start_token,
        vision_end_token=family.tokenizer.vision_end_token,
        video_token=family.tokenizer.video_token,
    )
    reference._calculate_timestamps = Qwen3VLProcessor._calculate_timestamps.__get__(reference)
    metadata = SimpleNamespace(fps=fps, frames_indices=list(range(frames)))
    grid = np.array([[steps, 2 * layout.grids[0].height, 2 * layout.grids[0].width]])
    expected = Qwen3VLProcessor.replace_video_token(
        reference, {"video_grid_thw": grid, "video_metadata": [metadata]}, 0
    )
    text = ""
    for piece in layout.pieces:
        match piece:
            case str():
                text += piece
            case Token(id):
                text += family.tokenizer.convert_ids_to_tokens(id)
            case Rows(count):
                assert count == rows
                text += family.tokenizer.video_token * count
    assert text == expected
    assert layout.patches == 4 * layout.rows == 4 * steps * rows
    assert layouts.video_placeholder == layout.token_id == family.tokenizer.video_token_id


def test_qwen2_5_vl_spaces_the_steps_of_a_video(open_family: Callable[[str], Any]) -> None:
    family = open_family("qwen2_5_vl")
    layouts = open_layouts(family.files, family.spec)
    assert layouts is not None
    layout = layouts.video(5, 40, 24, 1.6)
    (grid,) = layout.grids
    assert layout.pieces == (Rows(grid.rows),)
    assert (grid.time, grid.interval) == (3, 2.0 * (2 / 1.6))  # tokens a second · seconds of a step
    with pytest.raises(InvalidArgument, match=r"video\.fps must be a positive number, got 0"):
        layouts.video(4, 40, 24, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_resize": False}, "image_processor.do_resize False is not supported"),
        ({"patch_size": 14}, "image_processor.patch_size 14 is not supported; supported: 4, as vision_config says"),
        ({"size": {"shortest_edge": 0, "longest_edge": 9}}, "image_processor.size.shortest_edge must be a positive"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(
    open_family: Callable[[str], Any], change: dict[str, Any], said: str
) -> None:
    family = open_family("qwen2_5_vl")
    path = family.files.path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TriptychError, match=said):
        open_layouts(family.files, family.spec)


def test_layouts_need_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from triptych.models.pictures import open_layouts\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
