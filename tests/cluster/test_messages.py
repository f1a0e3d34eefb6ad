"""How much is said for how many tokens."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

TOKENS = 40


@pytest.mark.parametrize("layout", ["1P1D", "1E1P1D"])
def test_tokens_of_concurrent_requests_travel_as_one_message_per_step(
    layout: str, start: Any, tiny_llava: Path, ask: Any, answers: Any, eventually: Any
) -> None:
    """Eight requests: the decode worker sends one message for each step that it made, whoever took part in it."""
    cluster = start(tiny_llava, layout)
    prompts = [ask(3, images=1) if number % 2 else ask(3) for number in range(8)]
    brake = cluster.brake("decode-0")
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(answers, cluster, prompts, TOKENS)
        eventually(lambda: cluster.at_step("decode-0") == len(prompts))
        brake.release()
        assert [len(tokens) for tokens in found.result()] == [TOKENS] * 8

    def load(worker_id: str) -> Any:
        """As the worker reported it to the router."""
        return {worker.worker_id: worker.load for worker in cluster.client.status().workers}[worker_id]

    eventually(
        lambda: load("decode-0").generated_tokens == 8 * (TOKENS - 1) and load("prefill-0").generated_tokens == 8
    )
    decode, prefill = load("decode-0"), load("prefill-0")
    assert decode.prefilled_tokens == 0
    steps = cluster.host("decode-0").panel.decoding.stage.core.steps  # its report counts batches of pictures too
    assert decode.step_messages == steps
    assert steps == TOKENS - 1
    # The first tokens travel with PrefillDone, one for each request.
    assert (prefill.generated_tokens, prefill.step_messages) == (8, 0)
    assert cluster.client.status().router.generated_tokens == 8 * TOKENS


def test_a_long_prompt_costs_no_message_until_its_token(start: Any, tiny_llama: Path, ask: Any, answers: Any) -> None:
    cluster = start(tiny_llama, "1D", scheduler__max_batch_tokens=16)
    answers(cluster, [ask(100)], 3)
    stage = cluster.host("decode-0").panel.decoding.stage
    assert (stage.core.steps, stage.step_messages) == (-(-499 // 16) + 2, 2)
