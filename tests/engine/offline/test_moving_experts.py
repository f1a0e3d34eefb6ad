"""Experts that move while requests of all lengths come and go: the same tokens, and no step that waits for it."""

import random
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.core.generation import OperationKey
from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.balance import Balancer, open_balancer
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence
from triptych.models.expert_share import ExpertShare, Staged
from triptych.parallel.balance import Balance, BalancePolicy, Placement

Open = Callable[..., Engine]
WHEN_FORCED = BalancePolicy(threshold=0.0, gain=-1.0, patience=1e9)
LONGEST = 30
"""Tokens of an answer."""
SURE = 1e-3
"""Lead of each token's log-probability in the answers that are compared."""


@dataclass
class Load:
    """Requests of different lengths, of which there are never more than so many at once.

    Attributes:
        engine: Answers.
        answers: To prompts, as long as can be.
        running: See above.
        rng: Decides who comes when.
    """

    engine: Engine
    answers: list[tuple[list[int], list[int]]]
    running: int
    rng: random.Random
    finished: int = 0
    wanted: dict[OperationKey, list[int]] = field(default_factory=dict)

    def step(self) -> None:
        """One step; who ends has the answer that was expected."""
        scheduler = self.engine.core.scheduler
        outcome = self.engine.core.step(self._arrive)
        for emitted in outcome.emitted if outcome else ():
            if emitted.finish_reason:
                sequence = emitted.sequence
                assert sequence.token_ids[sequence.prompt_length :] == self.wanted.pop(sequence.key)
                scheduler.release(sequence.key)
                self.finished += 1

    def _arrive(self) -> None:
        while len(self.wanted) < self.running and self.rng.random() < 0.6:
            prompt, answer = self.rng.choice(self.answers)
            count = self.rng.randint(2, len(answer))
            key = OperationKey(f"{self.finished}-{secrets.token_hex(4)}")
            params = Sampling.of(SamplingParams(temperature=0, ignore_eos=True), ())
            self.wanted[key] = answer[:count]
            self.engine.core.scheduler.add(
                Sequence(key, [*prompt], len(prompt), params, 0, self.engine.core.limit(len(prompt), count))
            )


def certain(found: list[Completion], prompts: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """Answers up to where rounding could tell otherwise."""
    sure_ones = []
    for prompt, completion in zip(prompts, found, strict=True):
        assert completion.logprobs is not None
        leads = [position.top[0].logprob - position.top[1].logprob for position in completion.logprobs]
        sure = next((place for place, lead in enumerate(leads) if lead < SURE), len(leads))
        if sure > 1:
            sure_ones.append((prompt, list(completion.token_ids[:sure])))
    return sure_ones


def ask(engine: Engine, prompts: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    params = SamplingParams(temperature=0, max_tokens=LONGEST, ignore_eos=True, logprobs=2)
    return certain(engine.generate(prompts, params), prompts)


def rebalance(load: Load, times: int, after: Callable[[], object] = lambda: None) -> Balance:
    """Steps under load until so many rebalances are over, and then until everybody has an answer."""
    balancer = load.engine.balancer
    assert balancer is not None
    while (balance := balancer.balance).rebalances < times or balance.moving:
        if not balance.moving:
            balancer.force()
        load.step()
        after()
    load.running = 0
    while load.wanted:
        load.step()
    return balancer.balance


@dataclass
class Gate:
    """Holds up the threads that read experts until a step is over that was begun with them.

    Attributes:
        real: `ExpertShare.stage`.
        ranks: How many of these threads there are.
        threads: Their names.
        held_steps: Steps from beginning to end of which no rank could read what it was to have next.
    """

    real: Callable[[ExpertShare, Placement], Staged]
    ranks: int
    threads: set[str] = field(default_factory=set)
    held_steps: int = 0
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _permits: threading.Semaphore = field(default_factory=partial(threading.Semaphore, 0))

    def stage(self, share: ExpertShare, placement: Placement) -> Staged:
        """In the place of `ExpertShare.stage`."""
        with self._lock:
            self.threads.add(threading.current_thread().name)
            self._waiting += 1
        assert self._permits.acquire(timeout=240), "no step has ended for minutes"
        return self.real(share, placement)

    def stepped(self) -> None:
        """A step is over; if all ranks wait, they may read beside the next."""
        with self._lock:
            if self._waiting < self.ranks:
                return
            self._waiting = 0
        self.held_steps += 1
        self._permits.release(self.ranks)

    def end(self) -> None:
        """Holds up nobody any more, also where a test has failed."""
        self._permits.release(1000)


def at_random(weights: Any, old: Placement, groups: int, nodes: int) -> Placement:
    """Every expert somewhere."""
    slots = [*range(old.experts), *random.choices(range(old.experts), k=len(old.by_slot) - old.experts)]
    random.shuffle(slots)
    room = len(slots) // old.ranks
    return Placement(tuple(tuple(slots[rank * room : (rank + 1) * room]) for rank in range(old.ranks)))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(ExpertShare.stage, ranks=2)
    monkeypatch.setattr(ExpertShare, "stage", lambda share, placement: gate.stage(share, placement))
    yield gate
    gate.end()


def test_a_hundred_rebalances_change_no_token_and_hold_up_no_step(
    mixture: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch, gate: Gate, seed: int
) -> None:
    """Time is counted in calls of other ranks, which is what a step waits for."""
    calls = [lambda: 0]
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    monkeypatch.setattr("triptych.engine.ranks.leading.open_balancer", partial(open_balancer, planner=at_random))
    monkeypatch.setattr(
        "triptych.engine.balance.balancer.Balancer", partial(Balancer, clock=lambda: float(calls[0]()))
    )
    prompts = [torch.randint(4, 300, (length,)).tolist() for length in (3, 5, 9, 14, 20, 33, 40)]
    answers = ask(open_engine(mixture), prompts)
    options: dict[str, Any] = {"redundant_experts": 4, "expert_balance": WHEN_FORCED, "prefix_caching": False}
    with open_engine(mixture, expert_parallel=2, max_batch_tokens=24, **options) as engine:
        calls[0] = engine.core.decoder.mesh.expert.traffic.calls.total
        load = Load(engine, answers, 3, random.Random(seed))
        balance = rebalance(load, 100, gate.stepped)
    assert balance.rebalances >= 100
    assert balance.given_up == 0
    assert balance.moved_experts > balance.commits > 100  # of two layers, mostly both
    assert load.finished > 20
    assert gate.threads == {"experts_0"}  # of either rank; none that computes steps
    assert gate.held_steps == balance.commits
    assert balance.slow_steps == 0


@pytest.mark.soak
def test_experts_of_the_built_in_mixture_move_under_load(seed: int) -> None:
    """Real processes and a real clock: this machine's other work makes some steps slow, so a few may be."""
    settings: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": 1 << 27}
    prompts = [torch.randint(100, 40_000, (length,)).tolist() for length in (3, 5, 9, 14, 20, 33, 40, 90)]
    answers = ask(Engine("builtin:smollm2-moe", **settings), prompts)
    policy = BalancePolicy(threshold=0.0, gain=-1.0)
    with Engine("builtin:smollm2-moe", expert_parallel=2, expert_balance=policy, **settings) as engine:
        load = Load(engine, answers, 8, random.Random(seed))
        balance = rebalance(load, 5)
    assert balance.given_up == 0
    assert balance.commits > 100
    assert load.finished > 20
    assert balance.slow_steps <= balance.commits // 20
