"""The offline engine on models that read images of any size: two images of two sizes, against transformers."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.seeds import drawn_seed
from tests.support.vision_checkpoints import SPECIAL, TOKENS, family, processor, save
from triptych.core.errors import FailedPrecondition
from triptych.core.generation import OperationKey
from triptych.core.positions import Grid
from triptych.core.prompt import ChatMessage, ImagePart, ImageSpan, Part, TextPart, VideoPart
from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.eyes import place
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence

FAMILIES = ("llava_next", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_vl")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
NEAR_TIE = 1e-3
"""Share of the largest score by which it may lead, and be overtaken by rounding."""
BLOCK_BYTES = 3 * 2 * 2 * 16 * 16 * 4
"""Layers, keys and values, heads, tokens, dimensions, bytes."""
Parts = tuple[Part, ...]


@dataclass
class Model:
    name: str
    folder: Path
    reference: Any
    processor: Any

    def open(self, **options: Any) -> Engine:
        memory = {"kv_cache_memory": 1 << 22} | options
        return Engine(str(self.folder), dtype="float32", **memory)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    name: str = request.param
    folder = save(name, tmp_path_factory.mktemp(name))
    reference: Any = family(name).model
    loaded = reference.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loaded.generation_config.eos_token_id = None
    return Model(name, folder, loaded.train(False), processor(name))


@pytest.fixture(scope="module")
def chats() -> list[Parts]:
    """Text alone, images of several sizes before, between and after text."""
    return [
        (TextPart("the dog sleeps, the fox does not"),),
        (_picture(70, 30), TextPart("what is it?")),
        (TextPart("what is this: "), _picture(20, 90)),
        (TextPart("is "), _picture(100, 37), TextPart(" the same as "), _picture(33, 64), TextPart("?")),
    ]


@pytest.fixture(scope="module")
def alone(model: Model, chats: list[Parts]) -> list[Completion]:
    """Each prompt by itself, in chunks whose borders fall inside images and pages."""
    engine = model.open(max_batch_tokens=24, max_running=4)
    return [engine.generate([_user(parts)], GREEDY)[0] for parts in chats]


def _picture(width: int, height: int) -> ImagePart:
    seed = drawn_seed()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return ImagePart(buffer.getvalue())


def _user(parts: Parts) -> list[ChatMessage]:
    return [ChatMessage("user", parts)]


def _inputs(model: Model, parts: Parts) -> Any:
    content = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image"} for p in parts]
    images = [Image.open(io.BytesIO(p.data)) for p in parts if isinstance(p, ImagePart)]
    tokenizer = model.processor.tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return model.processor(text=text, images=images or None, return_tensors="pt", add_special_tokens=False)


def test_tokens_and_logprobs_are_those_of_transformers(
    model: Model, chats: list[Parts], alone: list[Completion]
) -> None:
    compared = 0
    for parts, completion in zip(chats, alone, strict=True):
        inputs = _inputs(model, parts)
        assert completion.prompt_token_ids == tuple(inputs["input_ids"][0].tolist())
        compared += _agreeing(model, inputs, completion)
    assert compared > 24


def _agreeing(model: Model, inputs: dict[str, Any], completion: Completion) -> int:
    """Tokens on which transformers agrees, its log-probabilities included; up to a near tie."""
    with torch.no_grad():
        result = model.reference.generate(
            **inputs, do_sample=False, max_new_tokens=24, return_dict_in_generate=True, output_logits=True
        )
    expected = result.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert completion.logprobs is not None
    for index, position in enumerate(completion.logprobs):
        logits = result.logits[index][0]
        first, second = logits.topk(2).values.tolist()
        if completion.token_ids[index] != expected[index]:
            assert first - second < NEAR_TIE * abs(first), f"token {index}"
            return index  # from here on they read different answers
        assert abs(position.logprob - (first - float(logits.logsumexp(-1)))) < 1e-3
    return len(expected)


def test_an_image_and_a_video_of_one_prompt_are_seen_as_transformers_does(model: Model) -> None:
    engine = model.open(max_batch_tokens=24, max_running=4)
    image, video = _picture(50, 30), VideoPart(tuple(_picture(30, 22).data for _ in range(7)), 0.25)
    parts = (TextPart("first "), image, TextPart(" then it moves: "), video, TextPart(" what?"))
    if engine.text.layouts is None or engine.text.layouts.video_placeholder is None:
        with pytest.raises(FailedPrecondition, match="video"):
            engine.generate([_user(parts)], GREEDY)
        return
    [completion] = engine.generate([_user(parts)], GREEDY)
    [seen, moving] = (engine.eyes.prepare(part, "image") for part in (image, video))
    ids = torch.tensor([completion.prompt_token_ids])
    tokens = {name: SPECIAL.index(TOKENS[f"{name}_token"]) for name in ("image", "video")}
    seconds = {"second_per_grid_ts": torch.tensor([2 / 0.25])} if model.name == "qwen2_5_vl" else {}
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.from_numpy(seen.pixels),
        "image_grid_thw": torch.tensor([seen.grid]),
        "pixel_values_videos": torch.from_numpy(moving.pixels),
        "video_grid_thw": torch.tensor([moving.grid]),
        "mm_token_type_ids": (ids == tokens["image"]).int() + 2 * (ids == tokens["video"]).int(),
        **seconds,
    }
    assert _agreeing(model, inputs, completion) > 3


def test_answers_to_images_are_recorded_steps(model: Model) -> None:
    engine = model.open()
    engine.generate([_user((_picture(50, 30), TextPart("what is it?")))], SamplingParams(temperature=0, max_tokens=9))
    recorder = engine.core.runner._recorder
    assert len(recorder._kept) == 1
    assert recorder.recorded == 1  # the prompt ran call by call, the answer in replays of one step


def test_a_prompt_may_end_with_the_last_row_of_an_image(model: Model) -> None:
    """That row is a step of its own here, which looks like an answer's and is none."""
    whole = model.open()
    if whole.spec.decoder.whole_images:
        pytest.skip("an image is computed in one step")
    parts = [_picture(31, 30) for _ in range(5)]
    embeddings = [whole.eyes.see(whole.eyes.prepare(part, "image")) for part in parts]
    length = 3 + embeddings[0].shape[1]
    cut = model.open(max_batch_tokens=length - 1, max_running=4)
    cut.generate("a text, whose answer's step is kept", SamplingParams(temperature=0, max_tokens=3))
    answers = [[_first_token(engine, embedding) for embedding in embeddings] for engine in (whole, cut)]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


def _first_token(engine: Engine, embedding: torch.Tensor) -> int:
    rows = embedding.shape[1]
    grid = Grid(1, 1, rows) if engine.spec.architecture.startswith("Qwen") else None
    media = place(ImageSpan(3, rows, grid=grid), f"picture {random.random()}", embedding)
    ids = [9, 8, 7] + [engine.spec.image_token_id or 0] * rows
    key, sampling = OperationKey(f"{random.random()}"), Sampling.of(SamplingParams(temperature=0), ())
    sequence = Sequence(key, ids, len(ids), sampling, 0, len(ids) + 1, media=(media,))
    engine.core.scheduler.add(sequence)
    while sequence.finish_reason is None:
        engine.core.step()
    engine.core.scheduler.release(key)
    return sequence.token_ids[-1]


def test_a_batch_with_images_gives_what_its_prompts_give_alone(
    model: Model, chats: list[Parts], alone: list[Completion], assert_same_answers: Callable[..., None]
) -> None:
    engine = model.open(max_batch_tokens=100)
    for _ in range(2):
        assert_same_answers(engine.generate([_user(parts) for parts in chats], GREEDY), alone)
    assert engine.core.scheduler.kv.hit_tokens > 0
    engine.core.scheduler.check_integrity()


def test_an_answer_that_gave_way_goes_on_as_if_it_had_not(
    model: Model, chats: list[Parts], alone: list[Completion], assert_same_answers: Callable[..., None]
) -> None:
    prompts, expected = [_user(chats[1])] * 3, [alone[1]] * 3
    blocks = 3 * -(-len(alone[1].prompt_token_ids) // 16) + 1  # 24 more tokens for each do not fit
    engine = model.open(kv_cache_memory=blocks * BLOCK_BYTES, max_batch_tokens=100, prefix_caching=False)
    assert_same_answers(engine.generate(prompts, GREEDY), expected)
    assert engine.core.scheduler.pool.count == blocks
    assert engine.core.scheduler.preemptions > 0
    engine.core.scheduler.check_integrity()
