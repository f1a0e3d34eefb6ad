"""An engine whose ranks divide experts, and move them while it answers; ranks are threads here."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from triptych.core.errors import InvalidArgument
from triptych.engine import Engine, SamplingParams
from triptych.engine.balance import open_balancer
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.parallel.balance import BalancePolicy, Placement, StepWatch

Open = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
ALWAYS = BalancePolicy(window=8, threshold=1.0, gain=0.0, rows=1)
LAYERS = 2
"""Of the mixture."""


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
        yield


def prompts(count: int) -> list[list[int]]:
    return [torch.randint(4, 300, (length,)).tolist() for length in torch.randint(3, 40, (count,)).tolist()]


def test_answers_are_the_same_while_experts_move(
    mixture: Path, open_engine: Open, assert_same_answers: Callable[..., None]
) -> None:
    asked = prompts(6)
    expected = open_engine(mixture).generate(asked, GREEDY)
    divided = {"expert_parallel": 2, "attention_parallel": "tensor", "redundant_experts": 4}
    with open_engine(mixture, **divided, expert_balance=ALWAYS) as engine:
        assert engine.balancer is not None
        while (balance := engine.balancer.balance).rebalances < 4 or balance.commits < LAYERS:
            engine.balancer.force()  # how many steps it takes is for the threads that read to say
            assert_same_answers(engine.generate(asked, GREEDY), expected)
        assert_same_answers(engine.generate(asked, GREEDY), expected)
    assert balance.given_up == 0


def test_experts_move_by_load_and_the_steps_that_take_long_after_it_are_counted(
    mixture: Path, open_engine: Open, assert_same_answers: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    took_after_commit, delayed = StepWatch.took_after_commit, []

    def took_long(watch: StepWatch, seconds: float) -> None:
        delayed.append(seconds)
        took_after_commit(watch, seconds + 1000)

    monkeypatch.setattr(StepWatch, "took_after_commit", took_long)
    asked = prompts(6)
    expected = open_engine(mixture).generate(asked, GREEDY)
    with open_engine(mixture, expert_parallel=2, redundant_experts=4, expert_balance=ALWAYS) as engine:
        assert engine.balancer is not None
        while not delayed:
            assert_same_answers(engine.generate(asked, GREEDY), expected)
        balance = engine.balancer.balance
    assert balance.rebalances > 0
    assert balance.slow_steps == len(delayed) > 0


def test_the_groups_of_a_router_stay_on_their_node(
    deepseek: Path, open_engine: Open, assert_same_answers: Callable[..., None]
) -> None:
    asked = prompts(6)
    expected = open_engine(deepseek).generate(asked, GREEDY)
    policy = BalancePolicy(window=8, threshold=0.0, rows=1, nodes=2)
    with open_engine(deepseek, expert_parallel=4, redundant_experts=4, expert_balance=policy) as engine:
        assert_same_answers(engine.generate(asked, GREEDY), expected)
        assert engine.balancer is not None
        while not (balance := engine.balancer.balance).commits or balance.moving:
            if not balance.moving:
                engine.balancer.force()
            assert_same_answers(engine.generate(asked, GREEDY), expected)
        assert_same_answers(engine.generate(asked, GREEDY), expected)
        moved = {layer.layer for layer in engine.balancer.balance.layers if layer.before is not None}
        for share in engine.core.decoder.shares:
            assert share.groups == 4
            if share.layer in moved:
                nodes = [set[int](), set[int]()]
                for rank, experts in enumerate(share.placement.slots):
                    nodes[rank // 2] |= {expert // 2 for expert in experts}
                assert [len(groups) for groups in nodes] == [2, 2]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_experts_of_every_form_move(
    mixture: Path, open_engine: Open, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(weights: Sequence[float], old: Placement, groups: int, nodes: int) -> Placement:
        return Placement((*old.slots[1:], old.slots[0]))

    monkeypatch.setattr("triptych.engine.ranks.leading.open_balancer", partial(open_balancer, planner=swapped))
    asked, policy = prompts(3), BalancePolicy(threshold=0.0, gain=-1.0)  # moves when told to, whatever it gains
    divided = {"tensor_parallel": 2, "expert_parallel": 2, "redundant_experts": 2, "expert_balance": policy}
    with open_engine(mixture, **divided, quantization=quantization, prefix_caching=False) as engine:
        before = [completion.token_ids for completion in engine.generate(asked, GREEDY)]
        assert engine.balancer is not None
        while not engine.balancer.balance.commits:
            engine.balancer.force()
            assert [completion.token_ids for completion in engine.generate(asked, GREEDY)] == before
        assert [completion.token_ids for completion in engine.generate(asked, GREEDY)] == before
        assert engine.balancer.balance.staged_bytes > 0


def test_experts_move_while_nothing_is_computed(mixture: Path, open_engine: Open) -> None:
    with open_engine(mixture, expert_parallel=2, attention_parallel="tensor") as engine:
        engine.generate(prompts(2), GREEDY)
        balancer = engine.balancer
        assert balancer is not None
        balancer.force()
        while not (balance := balancer.balance).rebalances or balance.moving:
            assert engine.core.step() is None
        assert balancer.balance.slow_steps == 0


def test_experts_that_do_not_come_out_even_stay_where_they_are(
    mixture: Path, open_engine: Open, assert_same_answers: Callable[..., None]
) -> None:
    asked = prompts(2)
    with open_engine(mixture, expert_parallel=3, attention_parallel="tensor", expert_balance=ALWAYS) as engine:
        assert engine.balancer is None
        assert_same_answers(engine.generate(asked, GREEDY), open_engine(mixture).generate(asked, GREEDY))


@pytest.mark.parametrize(("ranks", "redundant"), [(2, 3), (1, 2), (2, -2)])
def test_copies_that_the_ranks_cannot_share_are_refused(
    mixture: Path, open_engine: Open, ranks: int, redundant: int
) -> None:
    with pytest.raises(InvalidArgument) as error:
        open_engine(mixture, expert_parallel=ranks, redundant_experts=redundant)
    assert error.value.field == "redundant_experts"
