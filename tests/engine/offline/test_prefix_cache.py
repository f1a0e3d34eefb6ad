"""The built-in models give the same tokens with and without the prefix cache."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.engine import Completion, Engine, SamplingParams
from triptych.models.digits import DATA

Same = Callable[[list[Completion], list[Completion]], None]
CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = " ".join(f"Rule {n}: answer in at most {n + 3} words and name the number {n * 7 % 31}." for n in range(12))
QUESTIONS = [
    "Which rule is the shortest?",
    "Name three fruits.",
    "Say hello.",
    "Why is the sea salty?",
    "Write a line about the moon.",
]
NEAR_TIE = 0.25
"""Difference of two log-probabilities within which rows of bfloat16 may order them either way: few rows and many are
summed up in different orders. 0.19 is the largest that was seen to turn round."""
BLOCK_BYTES = 30 * 2 * 3 * 16 * 64 * 4  # layers, k and v, heads, tokens, dimensions, bytes


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=2)


@pytest.fixture(scope="module")
def open_smollm2() -> Iterator[Callable[..., Engine]]:
    """Engines whose pool has `blocks` blocks; each must end empty."""
    engines: list[Engine] = []

    def open_(
        model: str = "builtin:smollm2",
        *,
        blocks: int = 128,
        caching: bool = True,
        dtype: str = "float32",
        quantization: str = "none",
    ) -> Engine:
        memory = blocks * BLOCK_BYTES
        engine = Engine(model, dtype=dtype, quantization=quantization, kv_cache_memory=memory, prefix_caching=caching)
        engines.append(engine)
        return engines[-1]

    yield open_
    for engine in engines:
        engine.core.scheduler.check_integrity()
        assert engine.core.scheduler.pool.held_count == 0


@pytest.mark.timeout(300)
def test_prompts_with_the_same_system_prompt(open_smollm2: Callable[..., Engine], assert_same_answers: Same) -> None:
    prompts = [CHAT.format(SYSTEM, question) for question in QUESTIONS[:3]]
    plain, cached = open_smollm2(caching=False), open_smollm2()
    expected = plain.generate(prompts, greedy(8))
    first = cached.generate(prompts[0], greedy(8))
    assert_same_answers(first + cached.generate(prompts[1:], greedy(8)), expected)
    kv = cached.core.scheduler.kv
    assert kv.query_tokens == sum(len(answer.prompt_token_ids) for answer in expected)
    shared = len(plain.text.text(CHAT.partition("{}")[0] + SYSTEM).token_ids) // 16 * 16
    assert 2 * (shared - 16) <= kv.hit_tokens <= 2 * (shared + 16)
    saved = plain.core.computed_tokens - cached.core.computed_tokens
    assert saved == kv.hit_tokens
    assert_same_answers(cached.generate(prompts, greedy(8)), expected)  # now all of it is there


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("quantization", "near_tie"), [("none", NEAR_TIE), ("gguf", NEAR_TIE), ("int8", 0.0)])
def test_bfloat16_answers_differ_at_near_ties_at_most(
    quantization: str, near_tie: float, open_smollm2: Callable[..., Engine]
) -> None:
    prompts = [CHAT.format(SYSTEM, question) for question in QUESTIONS]
    plain, cached = (
        open_smollm2(caching=caching, dtype="bfloat16", quantization=quantization) for caching in (False, True)
    )
    expected = plain.generate(prompts, greedy(40))
    found = [cached.generate([prompt], greedy(40))[0] for prompt in prompts]
    assert cached.core.scheduler.kv.hit_tokens > 0
    leads = [
        lead for ours, theirs in zip(found, expected, strict=True) if (lead := first_lead(ours, theirs)) is not None
    ]
    print(f"leads of other tokens: {leads}")
    assert all(lead < near_tie for lead in leads)


def first_lead(found: Completion, expected: Completion) -> float | None:
    """By how much the likeliest token led where the answers part; None if they do not."""
    assert expected.logprobs is not None
    for ours, theirs, position in zip(found.token_ids, expected.token_ids, expected.logprobs, strict=True):
        if ours != theirs:
            first, second = position.top[:2]
            return first.logprob - second.logprob
    return None


@pytest.mark.timeout(300)
def test_sequences_that_give_way_find_their_own_blocks_again(
    open_smollm2: Callable[..., Engine], assert_same_answers: Same
) -> None:
    prompts = ["Once upon a time, in a village by the sea,", "The three laws are:\n1.", "def f(n):\n    "]
    plain, small = open_smollm2(caching=False), open_smollm2(blocks=7)
    assert_same_answers(small.generate(prompts, greedy(40)), plain.generate(prompts, greedy(40)))
    assert small.core.scheduler.preemptions > 0
    # A sequence computed again from the start would run all its tokens a second time.
    again = small.core.computed_tokens - plain.core.computed_tokens
    assert again < small.core.scheduler.preemptions * 32


@pytest.mark.timeout(300)
def test_pictures(open_smollm2: Callable[..., Engine], assert_same_answers: Same) -> None:
    with np.load(DATA / "held-out.npz") as held_out:
        pictures = [_png(held_out["images"][i]) for i in range(3)]
        labels = held_out["labels"][:3].tolist()
    assert len(set(labels)) > 1
    prompts = [_ask(picture) for picture in pictures]
    plain, cached = (open_smollm2("builtin:smollm2-digits", caching=caching) for caching in (False, True))
    expected = plain.generate(prompts, greedy(6))
    kv = cached.core.scheduler.kv
    found: list[int] = []
    for prompt, answer in [*zip(prompts, expected, strict=True)] * 2:
        before = kv.hit_tokens
        assert_same_answers(cached.generate([prompt], greedy(6)), [answer])
        found.append(kv.hit_tokens - before)
    for answer, label in zip(expected, labels, strict=True):
        assert str(label) in answer.text
    length = len(expected[0].prompt_token_ids)
    before_image = expected[0].prompt_token_ids.index(cached.spec.image_token_id)
    assert found == [0, *[before_image // 16 * 16] * 2, *[(length - 1) // 16 * 16] * 3]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _ask(picture: bytes) -> list[ChatMessage]:
    return [ChatMessage("user", (ImagePart(picture), TextPart("What digit is in the image?")))]
