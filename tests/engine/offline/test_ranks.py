"""Several ranks in one engine answer as one rank does, whatever they are asked; ranks are threads here."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.seeds import drawn_seed
from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.engine import Engine, SamplingParams
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.models.testing import save_adapter

Open = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)
TIGHT = {"blocks": 20, "max_batch_tokens": 24, "max_running": 6}
"""So little room that prompts are cut and answers give way to each other."""


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
        yield


@pytest.fixture(scope="module")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two, over every matrix of the layers."""
    width, inner, kv = 48, 80, 16
    shapes = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (width, kv), "self_attn.v_proj": (width, kv),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (width, inner), "mlp.up_proj": (width, inner),
        "mlp.down_proj": (inner, width),
    }  # fmt: skip
    return {
        name: save_adapter(
            tmp_path_factory.mktemp("adapters") / name,
            {
                f"model.layers.{layer}.{module}": (torch.randn(rank, i) * 0.3, torch.randn(o, rank) * 0.3)
                for layer in range(3)
                for module, (i, o) in shapes.items()
            },
            r=rank,
            target_modules="all-linear",
        )
        for name, rank in (("one", 2), ("other", 5))
    }


@pytest.fixture(scope="module")
def single(llama: Path, open_engine: Open, adapters: dict[str, Path]) -> Engine:
    return open_engine(llama, adapters=adapters)


@pytest.fixture(scope="module")
def divided(llama: Path, open_engine: Open, adapters: dict[str, Path]) -> Iterator[Engine]:
    with open_engine(llama, adapters=adapters, tensor_parallel=2, **TIGHT) as engine:
        yield engine


def prompts(count: int, low: int = 3, high: int = 60) -> list[list[int]]:
    lengths = torch.randint(low, high, (count,)).tolist()
    return [torch.randint(4, 300, (length,)).tolist() for length in lengths]


def test_greedy_answers_through_cut_prompts_and_preemption(
    single: Engine, divided: Engine, assert_same_answers: Callable[..., None]
) -> None:
    asked, long = prompts(8, 20, 45), replace(GREEDY, max_tokens=24)
    before = divided.core.scheduler.preemptions
    assert_same_answers(divided.generate(asked, long), single.generate(asked, long))
    assert divided.core.scheduler.preemptions > before
    divided.core.scheduler.check_integrity()


def test_more_ranks_than_kv_heads(
    single: Engine, llama: Path, open_engine: Open, assert_same_answers: Callable[..., None]
) -> None:
    asked = prompts(4)
    with open_engine(llama, tensor_parallel=4, **TIGHT) as engine:
        assert_same_answers(engine.generate(asked, GREEDY), single.generate(asked, GREEDY))


def test_a_prefix_that_is_known_is_not_computed_again(
    single: Engine, divided: Engine, assert_same_answers: Callable[..., None]
) -> None:
    (asked,) = prompts(1, 30, 31)
    expected = single.generate([asked], GREEDY)
    assert_same_answers(divided.generate([asked], GREEDY), expected)
    before = divided.core.scheduler.kv.hit_tokens
    assert_same_answers(divided.generate([asked], GREEDY), expected)
    assert divided.core.scheduler.kv.hit_tokens - before == 28


def test_drawn_penalised_and_several_answers(single: Engine, divided: Engine) -> None:
    asked = prompts(3, 3, 20)
    params = [
        SamplingParams(seed=7, n=2, max_tokens=12, top_k=20, logprobs=3),
        SamplingParams(seed=8, max_tokens=12, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.4),
        SamplingParams(seed=9, max_tokens=12, min_p=0.05, min_tokens=12),
    ]
    found, expected = divided.generate(asked, params), single.generate(asked, params)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert [c.token_ids for c in found[0].others] == [c.token_ids for c in expected[0].others]
    for ours, theirs in zip(found[0].logprobs or (), expected[0].logprobs or (), strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert [t.logprob for t in ours.top] == pytest.approx([t.logprob for t in theirs.top], abs=1e-3)


def test_adapters_beside_each_other(
    single: Engine, divided: Engine, assert_same_answers: Callable[..., None]
) -> None:
    asked, names = prompts(4, 3, 20), ["one", "", "other", "one"]
    found, expected = (e.generate(asked, GREEDY, adapter=names) for e in (divided, single))
    assert_same_answers(found, expected)
    plain = single.generate(asked, GREEDY)
    assert [c.token_ids == p.token_ids for c, p in zip(expected, plain, strict=True)] == [not name for name in names]


def test_quantised_weights(llama: Path, open_engine: Open) -> None:
    """Activations are rounded too, in groups that do not lie the same way in these narrow slices."""
    asked, one = prompts(6), SamplingParams(temperature=0, max_tokens=1, logprobs=20)
    expected = open_engine(llama, quantization="int8").generate(asked, one)
    with open_engine(llama, quantization="int8", tensor_parallel=2) as engine:
        found = engine.generate(asked, one)
    for ours, theirs in zip(found, expected, strict=True):
        a, b = ({t.token_id: t.logprob for t in (answer.logprobs or ())[0].top} for answer in (ours, theirs))
        common = a.keys() & b.keys()
        assert len(common) >= 15  # of 20, among 320: a slice of another's columns would find one or two
        assert max(abs(a[token] - b[token]) for token in common) < 0.4


def test_images_cut_by_chunks(llava: Path, open_engine: Open, assert_same_answers: Callable[..., None]) -> None:
    chats = [
        [ChatMessage("user", (TextPart("is "), picture(), TextPart(" the same as "), picture(), TextPart("?")))],
        [ChatMessage("user", (picture(), TextPart("what is it?")))],
        [ChatMessage("user", (TextPart("the dog"),))],
    ]
    expected = open_engine(llava).generate(chats, GREEDY)
    with open_engine(llava, tensor_parallel=2, **TIGHT) as engine:
        assert_same_answers(engine.generate(chats, GREEDY), expected)


def test_the_built_in_model(assert_same_answers: Callable[..., None]) -> None:
    """Nine query heads and three KV heads: two ranks have unequal shares."""
    settings: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": 1 << 25}
    asked = ["The capital of France is", "1, 1, 2, 3, 5, 8, 13,"]
    params = SamplingParams(temperature=0, max_tokens=8, logprobs=2)
    with Engine("builtin:smollm2", tensor_parallel=2, **settings) as engine:
        assert_same_answers(
            engine.generate(asked, params), Engine("builtin:smollm2", **settings).generate(asked, params)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 7}, r"at most 6 ranks can divide attention .* got 7; lower tensor_parallel"),
        ({"tensor_parallel": 0}, r"tensor_parallel must be at least 1, got 0"),
        ({"expert_parallel": 2}, r"expert_parallel must be 1 for a model without experts, got 2"),
    ],
)
def test_ranks_that_would_have_nothing_to_do_are_refused(
    llama: Path, open_engine: Open, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as raised:
        open_engine(llama, **options)
    assert raised.value.field == next(iter(options))


def picture() -> ImagePart:
    pixels = np.random.default_rng(drawn_seed()).integers(0, 256, (25, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return ImagePart(buffer.getvalue())
