"""builtin:smollm2 in float32 through a split cluster against transformers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

SETTINGS = """
model: builtin:smollm2
layout: 1P1D
dtype: float32
kv_cache: {memory: 256MiB}
"""

pytestmark = pytest.mark.timeout(900)  # Ray starts, and models load, within the first test


def test_greedy_answers_are_those_of_transformers(
    serving: Any,
    tmp_path: Any,
    reference_prompts: list[str],
    reference_tokens: list[tuple[int, ...]],
) -> None:
    """20 prompts × 64 tokens, eight requests at once: weights dequantised alike, KV moved between processes."""
    with serving(SETTINGS, tmp_path) as served, ThreadPoolExecutor(8) as threads:

        def answer(prompt: str) -> tuple[int, ...]:
            tokens: tuple[int, ...] = served.client.generate(prompt, temperature=0.0, max_tokens=64).token_ids
            return tokens

        found = list(threads.map(answer, reference_prompts))
        assert found == reference_tokens
        status = served.client.status()
        loads = {worker.worker_id: worker.load for worker in status.workers}
        assert loads["prefill-0"].prefilled_tokens > 0
        assert loads["decode-0"].prefilled_tokens == 0
