"""Positions of prompts with images and videos, against transformers."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from triptych.core.positions import Grid, following, reach
from triptych.core.prompt import ImageSpan
from triptych.engine.positions import one_each, positions_of

MERGE, TOKENS_PER_SECOND = 2, 2


class Prompt:
    """Text, images and videos one after the other, as spans and as transformers wants them."""

    def __init__(self, rng: random.Random, *, videos: bool) -> None:
        self.types: list[int] = [0] * rng.randint(0, 3)
        self.spans: list[ImageSpan] = []
        self.images: list[list[int]] = []
        self.videos: list[list[int]] = []
        self.seconds: list[float] = []
        for _ in range(rng.randint(1, 4)):
            self.add(rng, video=videos and rng.random() < 0.5)
            self.types += [0] * rng.randint(1, 5)

    def add(self, rng: random.Random, *, video: bool) -> None:
        height, width = rng.randint(1, 6), rng.randint(1, 6)
        seconds = rng.choice([0.4, 1.0, 2.0, 3.7]) if video else 0
        grid = Grid(rng.randint(1, 4) if video else 1, height, width, TOKENS_PER_SECOND * seconds if video else 1.0)
        shape = [grid.time, height * MERGE, width * MERGE]
        if video:
            self.videos.append(shape)
            self.seconds.append(seconds)
        else:
            self.images.append(shape)
        self.spans.append(ImageSpan(len(self.types), grid.rows, len(self.spans), grid=grid))
        self.types += [1 + int(video)] * grid.rows

    def expected(self, model: Any, **more: Any) -> tuple[np.ndarray, int]:
        vision = SimpleNamespace(spatial_merge_size=MERGE, tokens_per_second=TOKENS_PER_SECOND)
        fake = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
        fake.get_vision_position_ids = lambda *a, **k: model.get_vision_position_ids(fake, *a, **k)
        positions, shift = model.get_rope_index(
            fake,
            torch.zeros(1, len(self.types), dtype=torch.int64),
            torch.tensor([self.types]),
            torch.tensor(self.images) if self.images else None,
            torch.tensor(self.videos) if self.videos else None,
            **more,
        )
        return positions[:, 0].numpy(), int(shift)


@pytest.mark.parametrize("videos", [False, True])
def test_positions_are_those_of_transformers(seed: int, videos: bool) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        prompt = Prompt(rng, videos=videos)
        found = positions_of(len(prompt.types), prompt.spans)
        assert found is not None
        seconds = torch.tensor(prompt.seconds) if prompt.seconds else None
        positions, shift = prompt.expected(Qwen2_5_VLModel, second_per_grid_ts=seconds)
        assert (found.prompt == positions).all()
        assert reach(prompt.spans, len(prompt.types)) - len(prompt.types) == shift
        assert found.shift == found.prompt[0, -1] + 1 - len(prompt.types)  # the last token is text


def test_images_of_qwen3_lie_as_those_of_qwen2_5(seed: int) -> None:
    prompt = Prompt(random.Random(seed), videos=False)
    found = positions_of(len(prompt.types), prompt.spans)
    assert found is not None
    positions, shift = prompt.expected(Qwen3VLModel)
    assert ((found.prompt == positions).all(), found.shift) == (True, shift)


def test_any_part_of_a_sequence_can_be_asked_for(seed: int) -> None:
    prompt = Prompt(random.Random(seed), videos=True)
    length = len(prompt.types)
    found = positions_of(length, prompt.spans)
    assert found is not None
    whole = found.between(0, length + 9)
    assert (whole[:, length:] == np.arange(length, length + 9) + found.shift).all()
    for start in range(length + 8):
        for stop in range(start + 1, length + 9):
            assert (found.between(start, stop) == whole[:, start:stop]).all()
            assert one_each(found.between(start, stop)) is bool((whole[:, start:stop] == whole[0, start:stop]).all())


def test_without_grids_positions_are_the_indices() -> None:
    assert positions_of(9, [ImageSpan(2, 4)]) is None
    assert following([ImageSpan(2, 4)], 9) == reach([ImageSpan(2, 4)], 9) == 9


def test_the_place_of_a_frame_is_a_float32_product(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        interval = rng.uniform(0.01, 60)
        expected = (torch.arange(300) * torch.tensor(interval)).long().tolist()
        assert list(Grid(300, 1, 1, interval).frames()) == expected
