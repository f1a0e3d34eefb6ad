"""Experts move among the ranks of a serving worker, by hand and by load; answers are one rank's."""

from pathlib import Path
from typing import Any

import pytest

from triptych.client import FailedPrecondition

TOKENS, LAYERS = 16, 2


@pytest.mark.parametrize("attention", ["data", "tensor"])
def test_experts_of_a_serving_worker_move(
    start: Any, oracle: Any, ask: Any, answers: Any, eventually: Any, tiny_mixtral: Path, attention: str
) -> None:
    questions = oracle.questions(tiny_mixtral, lambda: ask(5), 6, TOKENS)
    prompts, expected = [prompt for prompt, _ in questions], [tokens for _, tokens in questions]
    balance = {"expert_balance__redundant_experts": 2, "expert_balance__threshold": 0.0}
    cluster = start(tiny_mixtral, "1D", expert_parallel=2, attention_parallel=attention, **balance)

    def experts() -> Any:
        return cluster.client.status().workers[0].experts

    assert answers(cluster, prompts, TOKENS) == expected
    assert experts().rebalances == 0
    for count in (1, 2):
        assert cluster.client.balance_experts() == ("decode-0",)
        assert answers(cluster, prompts, TOKENS) == expected
        eventually(lambda count=count: experts().rebalances == count and not experts().moving)
    seen = experts()
    assert [layer.layer for layer in seen.layers] == list(range(LAYERS))
    assert seen.given_up == 0
    assert seen.commits >= sum(layer.after is not None for layer in seen.layers)
    assert all(layer.after > layer.before for layer in seen.layers if layer.after is not None)


def test_experts_of_a_serving_worker_move_by_load(
    start: Any, oracle: Any, ask: Any, answers: Any, eventually: Any, tiny_mixtral: Path
) -> None:
    """When the settings say so: by default after a thousand steps."""
    questions = oracle.questions(tiny_mixtral, lambda: ask(5), 6, TOKENS)
    prompts, expected = [prompt for prompt, _ in questions], [tokens for _, tokens in questions]
    balance = {"expert_balance__window": 32, "expert_balance__threshold": 1.0, "expert_balance__redundant_experts": 2}
    cluster = start(tiny_mixtral, "1D", expert_parallel=2, attention_parallel="tensor", **balance)

    def experts() -> Any:
        return cluster.client.status().workers[0].experts

    for _ in range(20):
        assert answers(cluster, prompts, TOKENS) == expected
        if experts().rebalances:
            break
    eventually(lambda: experts().rebalances, explain=experts)


def test_a_worker_of_one_rank_has_no_experts_to_move(start: Any, tiny_mixtral: Path) -> None:
    cluster = start(tiny_mixtral, "1D")
    assert cluster.client.status().workers[0].experts is None
    with pytest.raises(FailedPrecondition, match="divides experts"):
        cluster.client.balance_experts()
