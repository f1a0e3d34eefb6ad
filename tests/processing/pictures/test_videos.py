from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import InvalidArgument
from triptych.models.pictures import open_preprocessor


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_video_of_one_picture_repeated_is_that_picture(
    open_family: Callable[[str], Any], picture: Callable[[int, int], bytes], name: str
) -> None:
    family = open_family(name)
    preprocessor = open_preprocessor(family.files, family.spec)
    data = picture(37, 26)
    still, moving = preprocessor.image(data), preprocessor.video([data, data], 2.0)
    assert moving.pixels.shape == still.pixels.shape
    np.testing.assert_array_equal(moving.pixels, still.pixels)
    odd = preprocessor.video([data, data, data], 2.0)
    np.testing.assert_array_equal(odd.pixels, np.concatenate([still.pixels, still.pixels]))
    assert odd.layout.rows == 2 * still.layout.rows


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_video_that_is_none_is_refused(
    open_family: Callable[[str], Any], picture: Callable[[int, int], bytes], name: str
) -> None:
    family = open_family(name)
    preprocessor = open_preprocessor(family.files, family.spec)
    with pytest.raises(InvalidArgument, match="video has no frames"):
        preprocessor.video([], 2.0)
    with pytest.raises(InvalidArgument, match="must have 16 x 8 pixels as the first frame has, got 8 x 16") as caught:
        preprocessor.video([picture(16, 8), picture(8, 16)], 2.0, field="chat.messages[0].parts[0]")
    assert caught.value.field == "chat.messages[0].parts[0].frames[1]"
    with pytest.raises(InvalidArgument, match="is not an image"):
        preprocessor.video([picture(16, 8), b"nothing"], 2.0)
