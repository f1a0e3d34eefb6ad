"""The step loop: what happens while a step computes, and that preparing the next one changes no token."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from triptych.engine.loop import StepFailed, StepLoop
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.sequence import Goal, Sequence

Bench = Callable[..., Any]


@dataclass
class Runner:
    """The bench's model behind `launch` and `wait`; writes down what it is called with."""

    bench: Any
    prepares: bool = True
    calls: list[str] = field(default_factory=list)
    foreseen: tuple[Sequence, ...] = ()
    hits: int = 0
    broken: bool = False
    balancer: None = None

    def launch(self, plan: StepPlan) -> "Runner":
        self.calls.append("launch")
        self.hits += bool(self.foreseen) and self.foreseen == plan.decodes
        self.foreseen = ()
        self.result: StepResult = self.bench.run(plan)
        return self

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        self.calls.append("foresee")
        assert all(len(s.blocks) * self.bench.block_size > len(s.token_ids) for s in sequences)
        self.foreseen = sequences if self.prepares else ()

    def idle(self) -> None:
        self.calls.append("idle")

    def wait(self) -> StepResult:
        self.calls.append("wait")
        if self.broken:
            raise RuntimeError("out of luck")
        return self.result


@pytest.fixture
def loop(bench: Bench) -> Callable[..., tuple[Any, Runner, StepLoop]]:
    def make(prepares: bool = True, **options: Any) -> tuple[Any, Runner, StepLoop]:
        made = bench(**options)
        runner = Runner(made, prepares)
        if not prepares:
            made.scheduler.prepare = lambda plan: ()
        return made, runner, StepLoop(made.scheduler, runner)

    return make


def test_the_next_step_is_prepared_while_one_computes(loop: Any) -> None:
    b, runner, steps = loop()
    b.add(3, max_tokens=6)
    for _ in range(4):
        runner.calls.clear()
        assert steps.step(lambda: runner.calls.append("meanwhile"))
        assert runner.calls == ["launch", "meanwhile", "foresee", "wait"]
    assert runner.hits == 3
    assert (steps.steps, steps.computed_tokens) == (4, 6)


def test_where_there_is_nothing_to_compute_the_rest_is_done_at_once(loop: Any) -> None:
    _, runner, steps = loop()
    assert steps.step(lambda: runner.calls.append("meanwhile")) is None
    assert runner.calls == ["idle", "meanwhile"]
    assert steps.steps == 0


def test_what_will_end_for_certain_is_not_prepared(loop: Any) -> None:
    b, runner, steps = loop()
    b.add(4, max_tokens=1)
    b.add(4, max_tokens=2, goal=Goal.FIRST_TOKEN)
    going_on = b.add(4, max_tokens=3)
    steps.step(lambda: None)
    assert runner.foreseen == (going_on,)
    assert b.scheduler.pool.held_count == 4  # its next token begins a new block
    steps.step(lambda: None)
    assert runner.foreseen == (going_on,)
    steps.step(lambda: None)
    assert runner.foreseen == ()


def test_blocks_prepared_for_an_answer_that_ends_come_back(loop: Any) -> None:
    b, runner, steps = loop()
    sequence = b.add(8, max_tokens=9, stop_token_ids=(3,), family=3)  # 3 follows 8 tokens of the first request
    outcome = steps.step(lambda: None)
    assert runner.foreseen == (sequence,)
    assert len(sequence.blocks) == 3
    assert outcome.emitted[0].finish_reason
    b.scheduler.release(sequence.key)
    assert b.scheduler.pool.held_count == 0
    b.scheduler.check_integrity()


def test_nobody_gives_way_to_what_is_prepared(loop: Any) -> None:
    b, runner, steps = loop(blocks=2)
    b.add(4, max_tokens=3)
    b.add(4, max_tokens=3)
    steps.step(lambda: None)
    assert runner.foreseen == ()
    assert b.scheduler.preemptions == 0
    steps.step(lambda: None)
    assert b.scheduler.preemptions == 1


@pytest.mark.parametrize("release", [False, True])
def test_a_sequence_that_goes_while_its_step_computes_gets_no_token(loop: Any, release: bool) -> None:
    b, _, steps = loop()
    gone, stays = b.add(4, max_tokens=9), b.add(4, max_tokens=9)
    steps.step(lambda: None)
    tokens = list(gone.token_ids)
    outcome = steps.step(lambda: (b.scheduler.release if release else b.scheduler.park)(gone.key))
    assert [e.sequence for e in outcome.emitted] == [stays]
    assert gone.token_ids == tokens
    b.scheduler.release(gone.key)
    assert steps.step(lambda: None).plan.decodes == (stays,)
    b.scheduler.check_integrity()


def test_a_sequence_that_comes_while_a_step_computes_is_in_the_next(loop: Any) -> None:
    b, _, steps = loop()
    b.add(4, max_tokens=9)
    steps.step(lambda: b.add(3))
    assert steps.step(lambda: None).plan.tokens == 1 + 3


def test_a_failed_step_leaves_its_sequences_as_they_were(loop: Any) -> None:
    b, runner, steps = loop()
    sequence = b.add(4, max_tokens=9)
    steps.step(lambda: None)
    before = (list(sequence.token_ids), sequence.computed)
    runner.broken = True
    with pytest.raises(StepFailed, match="a step of 1 tokens failed") as caught:
        steps.step(lambda: None)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert (sequence.token_ids, sequence.computed) == before
    assert (steps.steps, runner.foreseen) == (1, ())
    runner.broken = False
    while steps.step(lambda: None):
        pass
    assert b.answer_is_right(sequence)
    assert sequence.generated == 9


def test_the_step_is_waited_for_even_when_something_else_fails_meanwhile(loop: Any) -> None:
    b, runner, steps = loop()
    b.add(4)
    with pytest.raises(ZeroDivisionError):
        steps.step(lambda: 1 / 0)
    assert runner.calls == ["launch", "wait"]


def test_prepared_or_not_the_tokens_are_the_same_and_no_block_is_left(loop: Any, seed: int) -> None:
    options = {"blocks": 24, "max_batch_tokens": 20, "block_size": 3}
    answers = [list(_answers(loop(prepares, **options), random.Random(seed))) for prepares in (True, False)]
    assert answers[0] == answers[1]


def _answers(made: tuple[Any, Runner, StepLoop], rng: random.Random) -> Iterator[list[int]]:
    """Requests come while others run; every third is cancelled by and by."""
    b, runner, steps = made
    arrivals = [(rng.randint(1, 20), rng.randint(1, 15), rng.randrange(3)) for _ in range(40)]
    sequences: list[Sequence] = []
    while arrivals or next(b.scheduler.sequences(), None):
        for prompt, answer, family in [arrivals.pop() for _ in range(min(len(arrivals), rng.randint(0, 2)))]:
            sequences.append(b.add(prompt, answer, family=family, ignore_eos=False))
        gone = [s.key for s in sequences if int(s.key.request_id) % 3 == 0 and s.generated > 3]
        outcome = steps.step(lambda gone=gone: [b.scheduler.release(key) for key in gone])
        for item in outcome.emitted if outcome else ():
            if item.finish_reason:
                b.scheduler.release(item.sequence.key)
        b.scheduler.check_integrity()
    assert b.scheduler.pool.held_count == 0
    assert runner.hits > 0 or not runner.prepares
    for sequence in sequences:
        assert b.answer_is_right(sequence)
        if int(sequence.key.request_id) % 3:
            yield sequence.token_ids
