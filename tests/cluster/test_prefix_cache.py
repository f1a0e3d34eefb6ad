"""What begins alike is computed once per worker, through every layout, and the answers stay what they are."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage, TextPart

TOKENS = 6

pytestmark = pytest.mark.parametrize("block_size", [4, 16])


@pytest.mark.parametrize(("layout", "worker"), [("1D", "decode-0"), ("1P1D", "prefill-0")])
def test_the_second_of_two_prompts_that_begin_alike_reports_what_was_there(
    block_size: int, layout: str, worker: str, start: Any, tiny_llama: Path, oracle: Any, ask: Any, eventually: Any
) -> None:
    shared = ask(30)  # a token per character
    questions = oracle.questions(tiny_llama, lambda: f"{shared} {ask(2)}", 2, TOKENS)
    cluster = start(tiny_llama, layout)
    found = [
        cluster.client.generate(prompt, max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        for prompt, _ in questions
    ]
    assert [answer.token_ids for answer in found] == [tokens for _, tokens in questions]
    lengths = [answer.usage.prompt_tokens for answer in found]
    cached = found[1].usage.cached_tokens
    assert found[0].usage.cached_tokens == 0
    assert len(shared) // block_size * block_size <= cached < lengths[1]
    assert cached % block_size == 0

    def load() -> Any:
        return next(w.load for w in cluster.client.status().workers if w.worker_id == worker)

    eventually(lambda: load().prefilled_tokens == sum(lengths) - cached)  # a step later than they were looked up
    assert load().prefix_query_tokens == sum(lengths)
    assert load().prefix_hit_tokens == cached


def test_nothing_is_looked_up_when_prefix_caching_is_off(start: Any, tiny_llama: Path, ask: Any) -> None:
    cluster = start(tiny_llama, "1D", kv_cache__prefix_caching=False)
    prompt = ask(10)
    answers = [cluster.client.generate(prompt, max_tokens=3, temperature=0.0) for _ in range(2)]
    assert [answer.usage.cached_tokens for answer in answers] == [0, 0]
    assert answers[0].token_ids == answers[1].token_ids
    assert cluster.host("decode-0").panel.decoding.stage.load().prefix_query_tokens == 0


def test_the_whole_prompt_again_is_computed_but_for_its_end(block_size: int, start: Any, tiny_llama: Path) -> None:
    cluster = start(tiny_llama, "1D")
    for length in (block_size - 1, block_size, block_size + 1, 3 * block_size - 1, 3 * block_size):
        cached = (length - 1) // block_size * block_size
        prompt = [7 + length] * length
        found = [cluster.client.generate(prompt, max_tokens=3, temperature=0.0).usage for _ in range(2)]
        assert [usage.cached_tokens for usage in found] == [0, cached]


def test_a_conversation_goes_on_from_its_last_answer(block_size: int, start: Any, tiny_llama: Path, ask: Any) -> None:
    """The answer's own blocks are found as well."""
    cluster = start(tiny_llama, "1D")
    prompt = [10, 11, 12, 13, 14]
    first = cluster.client.generate(prompt, max_tokens=20, temperature=0.0, ignore_eos=True)
    following = [*prompt, *first.token_ids, 15, 16]
    # The answer's last token was never run through the model.
    assert (
        cluster.client.generate(following, max_tokens=2).usage.cached_tokens
        == (5 + 20 - 1) // block_size * block_size
    )


def test_kv_that_came_from_a_prefill_worker_is_found_by_the_decode_worker(
    block_size: int, start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llama, lambda: ask(20), 1, TOKENS)
    cluster = start(tiny_llama, "1P1D")
    assert answers(cluster, [prompt], TOKENS) == [expected]
    here = cluster.client.generate(
        prompt, max_tokens=TOKENS, temperature=0.0, ignore_eos=True, placement=Placement.COLOCATED
    )
    assert here.token_ids == expected
    assert here.usage.cached_tokens >= here.usage.prompt_tokens - block_size
    # And the other way round nothing is shared with what a transfer writes.
    assert answers(cluster, [prompt] * 4, TOKENS) == [expected] * 4


@pytest.mark.parametrize("layout", ["1D", "1E1D", "1E1P1D"])
def test_a_picture_is_part_of_what_is_alike(
    block_size: int, layout: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(6, images=1), 1, TOKENS)
    text = prompt[0].parts[-1]

    def other() -> list[ChatMessage]:
        return [ChatMessage("user", (TextPart("Look: "), ask(1, images=1)[0].parts[1], text))]

    [(different, answer)] = oracle.questions(tiny_llava, other, 1, TOKENS)
    cluster = start(tiny_llava, layout)

    def generate(question: Any) -> Any:
        return cluster.client.generate(question, max_tokens=TOKENS, temperature=0.0, ignore_eos=True)

    first, again, changed = generate(prompt), generate(prompt), generate(different)
    assert (first.token_ids, again.token_ids, changed.token_ids) == (expected, expected, answer)
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= again.usage.prompt_tokens - block_size
    assert changed.usage.prompt_tokens == again.usage.prompt_tokens
    assert changed.usage.cached_tokens <= len("?Look: ") // block_size * block_size


def test_many_alike_in_a_small_cache(
    block_size: int, start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, eventually: Any
) -> None:
    """Blocks are shared, evicted, preempted and found again; nobody's answer changes."""
    shared = ask(20)
    questions = oracle.questions(tiny_llama, lambda: f"{shared} {ask(8)}", 8, 60)
    cluster = start(tiny_llama, "1D", kv_cache__memory="1MiB", scheduler__max_batch_tokens=64)
    brake = cluster.brake("decode-0")
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(answers, cluster, [prompt for prompt, _ in questions], 60)
        eventually(lambda: cluster.at_step("decode-0") == len(questions))
        brake.release()
        assert found.result() == [tokens for _, tokens in questions]
    stage = cluster.host("decode-0").panel.decoding.stage
    assert stage.core.scheduler.preemptions > 0
    assert stage.core.scheduler.kv.hit_tokens > 0
    assert (cluster.recorded("decode-0") > 0) == (block_size == 16)
