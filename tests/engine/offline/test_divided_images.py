"""Images of a batch are encoded by all ranks of a replica, each by one of them; ranks are threads here."""

import io
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.support.seeds import drawn_seed
from tests.support.vision_checkpoints import save
from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, Part, TextPart
from triptych.engine import Engine, SamplingParams
from triptych.engine.eyes import Eyes
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.seeing import DividedEyes, deal
from triptych.engine.ranks.testing import RankThreads
from triptych.models.pictures import PreparedImage
from triptych.parallel import RankLost

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))


@pytest.fixture(params=["llava", "qwen2_5_vl", "gemma3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "llava":
        found: Path = request.getfixturevalue("llava")
        return found
    return save(request.param, tmp_path)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Which tower has encoded which pixels."""
    found: list[tuple[int, bytes]] = []
    see = Eyes.see

    def watched(eyes: Eyes, prepared: PreparedImage) -> Tensor:
        found.append((id(eyes), prepared.pixels.tobytes()))
        return see(eyes, prepared)

    monkeypatch.setattr(Eyes, "see", watched)
    return found


def picture(width: int, height: int) -> ImagePart:
    seed = drawn_seed()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return ImagePart(data.getvalue())


def user(*parts: Part) -> list[ChatMessage]:
    return [ChatMessage("user", parts)]


def test_every_image_is_encoded_once_in_the_group(
    folder: Path, encoded: list[tuple[int, bytes]], assert_same_answers: Callable[..., None]
) -> None:
    one, two, three, four = picture(70, 30), picture(20, 90), picture(100, 37), picture(33, 64)
    chats = [
        user(one, TextPart("what is it?")),
        user(TextPart("is "), two, TextPart(" the same as "), three, TextPart("?")),
        user(four, TextPart("and again "), one),
        user(TextPart("the dog sleeps")),
    ]
    settings: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": 1 << 22, "threads": 1}
    expected = Engine(str(folder), **settings).generate(chats, GREEDY)
    alone = Counter(pixels for _, pixels in encoded)
    encoded.clear()
    with Engine(str(folder), tensor_parallel=2, **settings) as engine:
        assert_same_answers(engine.generate(chats, GREEDY), expected)
    assert Counter(pixels for _, pixels in encoded) == alone
    assert set(alone.values()) == {1}
    assert len(alone) == 4
    assert len({eyes for eyes, _ in encoded}) == 2


def test_a_picture_that_cannot_be_read_is_refused_wherever_it_is_dealt_to(
    llava: Path, assert_same_answers: Callable[..., None]
) -> None:
    good = picture(40, 40)
    cut = ImagePart(good.data[: len(good.data) // 2])
    with Engine(str(llava), tensor_parallel=2, dtype="float32", kv_cache_memory=1 << 22, threads=1) as engine:
        expected = engine.generate([user(good)], GREEDY)
        for parts in ((cut, good), (good, cut), (picture(30, 30), good, cut)):
            with pytest.raises(InvalidArgument):
                engine.generate([user(*parts)], GREEDY)
        assert_same_answers(engine.generate([user(good)], GREEDY), expected)


def test_a_rank_lost_among_images_costs_time_and_no_token(
    llava: Path, monkeypatch: pytest.MonkeyPatch, assert_same_answers: Callable[..., None]
) -> None:
    chats = [user(picture(40, 40), TextPart("what is it?")), user(picture(50, 20))]
    settings: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": 1 << 22, "threads": 1}
    expected = Engine(str(llava), **settings).generate(chats, GREEDY)
    see, tried = DividedEyes.see, [0]

    def see_or_lose(eyes: DividedEyes, *images: Any) -> dict[str, Tensor]:
        tried[0] += 1
        if tried[0] == 1:
            raise eyes._hub.blame(RankLost("rank 1 is gone"))
        return see(eyes, *images)

    monkeypatch.setattr(DividedEyes, "see", see_or_lose)
    with Engine(str(llava), tensor_parallel=2, **settings) as engine:
        assert_same_answers(engine.generate(chats, GREEDY), expected)
    assert tried == [2]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_least_busy_rank_gets_the_next_largest_image(ranks: int) -> None:
    work = [random.randrange(1, 1000) for _ in range(12)]
    owners = deal(work, ranks)
    loads = [sum(size for size, owner in zip(work, owners, strict=True) if owner == rank) for rank in range(ranks)]
    assert max(loads) - min(loads) <= max(work)
    assert deal([5, 9, 1, 4], 2) == (1, 0, 0, 1)
    assert deal([], ranks) == ()
