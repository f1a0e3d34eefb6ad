"""The offline engine on a tiny LLaVA: images in a chat, against transformers' processor and generate."""

import io
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from tests.support.seeds import drawn_seed
from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.engine import Completion, Engine, SamplingParams

OpenEngine = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
Parts = tuple[TextPart | ImagePart, ...]


@pytest.fixture(scope="module")
def engine(llava: Path, open_engine: OpenEngine) -> Engine:
    return open_engine(llava)


@pytest.fixture(scope="module")
def chats() -> list[Parts]:
    """Text alone, an image before and after text, and two images."""
    return [
        (TextPart("the dog"),),
        (_picture(), TextPart("what is it?")),
        (TextPart("what is this: "), _picture((31, 64))),
        (TextPart("is "), _picture(), TextPart(" the same as "), _picture((8, 200)), TextPart("?")),
    ]


@pytest.fixture(scope="module")
def alone(engine: Engine, chats: list[Parts]) -> list[Completion]:
    return [engine.generate([_user(parts)], GREEDY)[0] for parts in chats]


def _picture(size: tuple[int, int] = (40, 25)) -> ImagePart:
    pixels = np.random.default_rng(drawn_seed()).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return ImagePart(buffer.getvalue())


def _user(parts: Parts) -> list[ChatMessage]:
    return [ChatMessage("user", parts)]


def test_tokens_and_logprobs_are_those_of_transformers(
    llava: Path, chats: list[Parts], alone: list[Completion]
) -> None:
    model: Any = LlavaForConditionalGeneration.from_pretrained(llava, dtype=torch.float32)
    processor: Any = LlavaProcessor.from_pretrained(llava)
    image_token = model.config.image_token_index
    for parts, completion in zip(chats, alone, strict=True):
        content = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in parts]
        images = [Image.open(io.BytesIO(p.data)) for p in parts if isinstance(p, ImagePart)]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=text, images=images or None, return_tensors="pt")
        assert completion.prompt_token_ids == tuple(inputs["input_ids"][0].tolist())
        prompt_length = len(completion.prompt_token_ids)
        answer = tuple(takewhile(lambda token: token != image_token, completion.token_ids))  # it may say one itself
        row = torch.tensor([completion.prompt_token_ids + answer])
        with torch.no_grad():
            logits = model(row, pixel_values=inputs.get("pixel_values")).logits[0, prompt_length - 1 : -1]
        chosen = logits.gather(1, row[0, prompt_length:, None])[:, 0]
        assert not answer or (logits.amax(-1) - chosen).max() < 1e-3  # equal but for near ties
        assert completion.logprobs is not None
        found = torch.tensor([position.logprob for position in completion.logprobs[: len(answer)]])
        torch.testing.assert_close(found, chosen - logits.logsumexp(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 8}, {"blocks": 24}], ids=str)
def test_a_batch_with_images_gives_what_its_prompts_give_alone(
    options: dict[str, Any],
    llava: Path,
    chats: list[Parts],
    alone: list[Completion],
    open_engine: OpenEngine,
    assert_same_answers: Callable[..., None],
) -> None:
    other = open_engine(llava, **options)
    assert_same_answers(other.generate([_user(parts) for parts in chats], GREEDY), alone)
    scheduler = other.core.scheduler
    assert (scheduler.preemptions > 0) is ("blocks" in options)
    scheduler.check_integrity()
    assert scheduler.pool.held_count == 0


def test_another_picture_gives_another_answer(engine: Engine) -> None:
    prompts = [_user((_picture(), TextPart("what is it?"))) for _ in range(4)]
    answers = engine.generate(prompts, GREEDY)
    assert len({a.prompt_token_ids for a in answers}) == 1
    assert len({a.logprobs for a in answers}) > 1


def test_the_vision_tower_is_read_at_the_first_image(llava: Path, open_engine: OpenEngine) -> None:
    fresh = open_engine(llava)
    fresh.generate("no image", GREEDY)
    assert "eyes" not in vars(fresh)
    fresh.generate([_user((_picture(),))], GREEDY)
    assert "eyes" in vars(fresh)


def test_an_image_token_without_its_image_is_refused(engine: Engine) -> None:
    image_token = engine.spec.image_token_id
    for prompt in ("what is <image>?", [[5, image_token]]):
        with pytest.raises(InvalidArgument, match=r"holds the image token \d+ at place \d+; send images in a chat"):
            engine.generate(prompt, GREEDY)  # type: ignore[arg-type]


def test_what_is_not_an_image_is_refused(engine: Engine) -> None:
    good = _picture()
    for bad in (b"", b"no image", good.data[:100]):
        with pytest.raises(InvalidArgument, match="image"):
            engine.generate([_user((good, ImagePart(bad)))], GREEDY)
    assert engine.core.scheduler.pool.held_count == 0
    assert len(engine.generate([_user((good,))], GREEDY)[0].token_ids) == 24
