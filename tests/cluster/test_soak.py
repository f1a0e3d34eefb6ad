"""Long mixed load: whatever clients do, finished answers are right and nothing stays held."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.seeds import drawn_seed

REQUESTS = 1000
CLIENTS = 12


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_thousand_requests_of_every_kind_leave_nothing_held(
    tiny_llava: Path, running: Callable[..., AbstractContextManager[Any]], ask: Callable[..., Any], oracle: Any
) -> None:
    """The end of `running` asserts that every worker is idle and holds nothing."""
    rng = np.random.default_rng(drawn_seed())
    makers = [lambda: ask(6), lambda: ask(12, images=1), lambda: ask(3, images=2)]
    questions = [q for make in makers for q in oracle.questions(tiny_llava, make, 4, max_tokens=24)]
    fates = rng.choice(["finish", "cancel"], REQUESTS, p=[0.7, 0.3])
    picks = rng.integers(0, len(questions), REQUESTS)
    with running(tiny_llava, "2E1P2D", kv_cache__memory="1MiB", scheduler__max_running=4) as cluster:

        def one(number: int) -> bool:
            prompt, expected = questions[picks[number]]
            with cluster.client.stream(prompt, max_tokens=24, temperature=0, ignore_eos=True) as stream:
                if fates[number] == "cancel":
                    next(iter(stream))
                    stream.cancel()
                    return True
                return bool(stream.result().token_ids == expected)

        with ThreadPoolExecutor(CLIENTS) as threads:
            assert all(threads.map(one, range(REQUESTS)))
