"""Workers with several ranks, as threads of this process: the same tokens as one rank, and nothing left behind."""

from pathlib import Path
from typing import Any

import pytest

TOKENS = 12


@pytest.mark.parametrize("tensor", [2, 4])
def test_a_worker_of_several_ranks_answers_as_one_rank_does(
    start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, tensor: int
) -> None:
    questions = oracle.questions(tiny_llama, lambda: ask(5), 8, TOKENS)
    cluster = start(tiny_llama, "1D", tensor_parallel=tensor)
    for prompt, expected in questions[:2]:
        assert answers(cluster, [prompt], TOKENS) == [expected]
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
