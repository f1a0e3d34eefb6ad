"""Models whose images have any number of tokens: split over workers or not, the answers are the offline engine's."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.seeds import shared
from tests.support.vision_checkpoints import save
from triptych.client import FailedPrecondition, InvalidArgument, Placement, PromptTooLong, load_video
from triptych.core.prompt import ChatMessage, ImagePart, TextPart

TOKENS = 12
Sizes = tuple[tuple[int, int], ...]
Ask = Callable[..., list[ChatMessage]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Made when the first test asks, and the same whichever that is."""

    @cache
    def model(name: str) -> Path:
        with shared(f"the tiny {name}"):
            return save(name, tmp_path_factory.mktemp(name))

    return model


@pytest.fixture
def look(rng: np.random.Generator) -> Ask:
    """A question about images of these sizes, and about a video of so many frames."""

    def make(sizes: Sizes, frames: int = 0) -> list[ChatMessage]:
        words = [TextPart(" " + "".join(rng.choice(list("abcdefgh"), 5))) for _ in range(len(sizes) + 1)]
        images = [ImagePart(png(rng, *size)) for size in sizes]
        video = [load_video([png(rng, 40, 24) for _ in range(frames)], fps=1.5)] if frames else []
        parts = [part for pair in zip(words, [*images, *video], strict=False) for part in pair]
        return [ChatMessage("user", (*parts, TextPart("?")))]

    return make


def png(rng: np.random.Generator, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def block_size() -> int:
    return 16


@pytest.mark.parametrize(("name", "backend"), [("qwen3_vl", "auto"), ("idefics3", "tcp"), ("gemma3", "auto")])
def test_split_over_workers_or_not_images_of_two_sizes_have_the_same_answer(
    name: str, backend: str, models: Any, look: Ask, start: Any, oracle: Any, answers: Any
) -> None:
    model = models(name)
    questions = oracle.questions(model, lambda: look(((70, 30), (20, 90))), 2, TOKENS)
    questions += oracle.questions(model, lambda: look(((33, 64),)), 2, TOKENS)
    prompts, expected = [prompt for prompt, _ in questions], [tokens for _, tokens in questions]
    split = start(model, "2E1P1D", transfer__backend=backend, scheduler__max_batch_tokens=40)
    assert answers(split, prompts, TOKENS) == expected
    assert answers(split, prompts, TOKENS, placement=Placement.COLOCATED) == expected
    assert all(split.host(f"encode-{n}").panel.encoding.encoded_images for n in (0, 1))
    assert split.host("prefill-0").panel.decoding.stage.prefilled_tokens > 0


def test_a_video_has_the_answer_of_the_offline_engine(
    models: Any, look: Ask, start: Any, oracle: Any, answers: Any
) -> None:
    model = models("qwen3_vl")
    questions = oracle.questions(model, lambda: look(((30, 30),), frames=5), 2, TOKENS)
    cluster = start(model, "1E1P1D")
    assert cluster.client.models()[0].accepts_videos
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]


def test_an_answer_that_gave_way_on_its_decode_worker_goes_on_from_embeddings_of_any_size(
    models: Any, look: Ask, start: Any, oracle: Any, answers: Any
) -> None:
    model = models("qwen3_vl")
    questions = oracle.questions(model, lambda: look(((60, 40), (20, 30))), 2, TOKENS)
    cluster = start(model, "1E1P1D")
    scheduler = cluster.host("decode-0").panel.decoding.stage.core.scheduler
    make_room, gave_way = scheduler._make_room, set()

    def take_blocks_back() -> None:
        for sequence in list(scheduler._roster.running):
            if sequence.generated > TOKENS // 2 and sequence.key not in gave_way:
                gave_way.add(sequence.key)
                scheduler._take_back(sequence)
        make_room()

    scheduler._make_room = take_blocks_back
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    assert len(gave_way) == 2
    assert cluster.host("encode-0").panel.encoding.store.counts.chunks > 4


def test_images_that_never_fit_are_refused_with_the_limit(models: Any, look: Ask, start: Any) -> None:
    cluster = start(models("qwen3_vl"), "1E1D", context_length=64)
    with pytest.raises(InvalidArgument, match="200"):  # times as long as it is wide
        cluster.client.generate(look(((2010, 4),)), max_tokens=2)
    with pytest.raises(PromptTooLong, match=r"the context holds 64 tokens; the prompt has \d+"):
        cluster.client.generate(look(((64, 64),) * 2), max_tokens=2)


def test_a_model_without_videos_says_so(models: Any, look: Ask, start: Any) -> None:
    cluster = start(models("idefics3"), "1E1D")
    with pytest.raises(FailedPrecondition, match="video"):
        cluster.client.generate(look((), frames=2), max_tokens=2)
    assert not cluster.client.models()[0].accepts_videos
