"""Workers whose ranks divide the experts: rows of ranks with requests of their own, or with the heads of the same."""

from pathlib import Path
from typing import Any

import pytest

TOKENS = 10


@pytest.mark.parametrize(
    ("tensor", "expert", "attention"), [(1, 2, "data"), (1, 4, "data"), (2, 2, "data"), (2, 2, "tensor")]
)
def test_a_mixture_answers_as_on_one_rank(
    start: Any, tiny_mixtral: Path, oracle: Any, ask: Any, answers: Any, tensor: int, expert: int, attention: str
) -> None:
    questions = oracle.questions(tiny_mixtral, lambda: ask(5), 6, TOKENS)
    cluster = start(tiny_mixtral, "1D", tensor_parallel=tensor, expert_parallel=expert, attention_parallel=attention)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    [worker] = cluster.client.status().workers
    assert len(worker.rank_pids) == tensor * expert


@pytest.mark.parametrize(("prefill", "decode"), [((2, 1), (1, 2)), ((1, 2), (2, 2)), ((1, 4), (2, 1))])
def test_prefill_and_decode_workers_divide_the_experts_differently(
    start: Any,
    tiny_deepseek: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    prefill: tuple[int, int],
    decode: tuple[int, int],
) -> None:
    questions = oracle.questions(tiny_deepseek, lambda: ask(4), 5, TOKENS)
    names = ("tensor_parallel", "expert_parallel")
    stages = {
        "prefill": {"replicas": 1} | dict(zip(names, prefill, strict=True)),
        "decode": {"replicas": 1} | dict(zip(names, decode, strict=True)),
    }
    cluster = start(tiny_deepseek, "auto", stages=stages)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    stage = cluster.host("decode-0").panel.decoding.stage
    assert stage.prefilled_tokens == 0
    assert sum(receiver.counts.chunks > 0 for receiver in cluster.receivers("decode-0")) >= decode[0]


def test_a_worker_that_sees_by_itself_divides_pictures_among_its_ranks(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(3, images=3), 4, TOKENS)
    cluster = start(tiny_llava, "1D", tensor_parallel=2)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    assert cluster.host("decode-0").panel.encoding._encoder.passes == 12
