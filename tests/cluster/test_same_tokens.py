"""Whatever way a request takes, its tokens are those of the offline engine."""

from pathlib import Path
from typing import Any

import pytest

from triptych.core.plan import Placement

TOKENS = 12
LAYOUTS = ["1D", "1P1D", "1E1D", "1E1P1D", "2E1P1D", "1E2P2D"]

pytestmark = pytest.mark.parametrize("block_size", [4, 16])


@pytest.mark.parametrize("layout", ["1D", "1P1D", "2P2D"])
def test_text_alone_and_eight_at_once(
    block_size: int, layout: str, start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_llama, lambda: ask(5), 8, TOKENS)
    cluster = start(tiny_llama, layout)
    for prompt, expected in questions[:3]:
        assert answers(cluster, [prompt], TOKENS) == [expected]
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    assert (cluster.recorded("decode-0") > 0) == (block_size == 16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_alone_and_eight_at_once(
    layout: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(3, images=2), 6, TOKENS)
    questions += oracle.questions(tiny_llava, lambda: ask(3), 2, TOKENS)
    cluster = start(tiny_llava, layout)
    for prompt, expected in questions[:2]:
        assert answers(cluster, [prompt], TOKENS) == [expected]
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]


def test_placement_decides_where_a_prompt_is_read(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(3, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D")
    decode, prefill = cluster.host("decode-0").panel.decoding.stage, cluster.host("prefill-0").panel.decoding.stage
    assert answers(cluster, [prompt], TOKENS, placement=Placement.COLOCATED) == [expected]
    assert (prefill.core.steps, decode.prefilled_tokens > 0) == (0, True)
    read_by_decode = decode.prefilled_tokens
    assert answers(cluster, [prompt], TOKENS, placement=Placement.DISAGGREGATED) == [expected]
    assert (decode.prefilled_tokens, prefill.prefilled_tokens) == (read_by_decode, read_by_decode)


@pytest.mark.parametrize("backend", ["shared_memory", "tcp"])
def test_both_transfer_backends(
    backend: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(8, images=2), 4, TOKENS)
    cluster = start(tiny_llava, "1E1P1D", transfer__backend=backend)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    received = cluster.host("decode-0").panel.decoding.movers.receiver.counts
    fetched = cluster.host("encode-0").panel.encoding.store.counts
    assert received.chunks >= 4
    assert fetched.chunks == 8
    assert (received.copies > 0, received.messages > 0) == (backend == "shared_memory", backend == "tcp")
    assert (fetched.messages > 0) == (backend == "tcp")


@pytest.mark.parametrize("layout", ["1E1D", "1E1P1D"])
def test_prompts_of_many_chunks(
    layout: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    """16 tokens of budget per step, shared by four prompts of over 100 tokens with images across the chunks."""
    questions = oracle.questions(tiny_llava, lambda: ask(16, images=2), 4, TOKENS)
    cluster = start(tiny_llava, layout, scheduler__max_batch_tokens=16)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    if layout == "1E1P1D":
        received = cluster.host("decode-0").panel.decoding.movers.receiver.counts
        assert received.chunks > 4 * 5


def test_a_seed_gives_the_same_sample_in_every_layout(start: Any, tiny_llama: Path, ask: Any, oracle: Any) -> None:
    options = {"temperature": 0.7, "top_k": 20, "seed": 5, "max_tokens": TOKENS, "ignore_eos": True}
    while (expected := oracle.sampled(tiny_llama, prompt := ask(5), **options)) is None:
        pass
    found = [start(tiny_llama, layout).client.generate(prompt, **options).token_ids for layout in ("1D", "1P1D")]
    assert found == expected * 2


def test_logprobs_and_usage_travel_with_the_tokens(start: Any, tiny_llava: Path, ask: Any) -> None:
    cluster = start(tiny_llava, "1E1P1D")
    generation = cluster.client.generate(ask(3, images=2), temperature=0.0, max_tokens=5, logprobs=2, ignore_eos=True)
    assert [position.top[0].token_id for position in generation.logprobs] == list(generation.token_ids)
    assert (generation.usage.completion_tokens, generation.usage.image_tokens) == (5, 32)
    assert generation.usage.prompt_tokens == 1 + 6 + 32 + 3 * 4 + 2 + 1


def test_the_timeline_names_every_stage_and_its_worker(start: Any, tiny_llava: Path, ask: Any) -> None:
    generation = start(tiny_llava, "1E1P1D").client.generate(ask(3, images=1), max_tokens=4, ignore_eos=True)
    assert {span.name: span.worker for span in generation.timeline} == {
        "queue": "",
        "encode": "encode-0",
        "reserve": "decode-0",
        "embeddings": "prefill-0",
        "prefill": "prefill-0",
        "kv transfer": "decode-0",
        "first token": "",
        "decode": "decode-0",
    }
    assert all(span.start_us >= 0 and span.duration_us >= 0 for span in generation.timeline)
