"""Whatever comes in whatever order: no block leaks or has two writers, budgets hold, every sequence finishes."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from triptych.core.errors import ResourceExhausted
from triptych.engine.blocks import blocks_for
from triptych.engine.scheduler import Emitted
from triptych.engine.sequence import Goal, Media, Sequence

# Small pools and small prompts: sequences meet, run out of blocks and are preempted.
PROMPT, ANSWER = st.integers(1, 9), st.integers(2, 12)
FAMILY = st.integers(0, 2)  # prompts of one family begin alike
MEDIA = st.sampled_from([(), (Media(0, 1, torch.zeros(1, 2), "a"),), (Media(0, 1, None, "b"),)])


Added: TypeAlias = MultipleResults[Sequence] | Sequence


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, start, are parked, supplied and released between the steps."""

    sequences: Bundle[Sequence] = Bundle("sequences")
    reserved: Bundle[Sequence] = Bundle("reserved")

    make: Callable[..., Any]

    @initialize(
        blocks=st.integers(4, 9),
        block_size=st.integers(1, 3),
        budget=st.integers(1, 9),
        running=st.integers(2, 5),
        caching=st.booleans(),
    )
    def open(self, blocks: int, block_size: int, budget: int, running: int, caching: bool) -> None:
        self.bench = self.make(blocks, block_size, budget, running, caching)
        self.scheduler = self.bench.scheduler
        self.ended: set[Sequence] = set()
        self.waiting_for_kv: set[Sequence] = set()
        self.in_batch: set[Sequence] = set()

    @rule(
        target=sequences,
        prompt=PROMPT,
        answer=ANSWER,
        goal=st.sampled_from(Goal),
        eos=st.booleans(),
        media=MEDIA,
        family=FAMILY,
    )
    def add(self, prompt: int, answer: int, goal: Goal, eos: bool, media: tuple[Media, ...], family: int) -> Added:
        media = tuple(
            Media(m.start, m.length, torch.zeros(1, 2), m.content) for m in media
        )  # a prompt waits for its embeddings
        if prompt >= self.bench.capacity:
            with pytest.raises(ResourceExhausted, match=rf"{prompt + 1} tokens .* holds {self.bench.capacity};"):
                self.bench.add(prompt, answer)
            return multiple()
        sequence: Sequence = self.bench.add(prompt, answer, goal=goal, media=media, ignore_eos=eos, family=family)
        return sequence

    @rule(target=reserved, prompt=PROMPT, answer=ANSWER, media=MEDIA, family=FAMILY)
    def reserve(self, prompt: int, answer: int, media: tuple[Media, ...], family: int) -> Added:
        prompt = min(prompt, self.bench.capacity - 2)
        sequence: Sequence = self.bench.sequence(prompt, answer, media=media, family=family)
        free = self.scheduler.pool.free_count
        owed = sum(blocks_for(len(s.token_ids), self.bench.block_size) for s in self.scheduler.stalled())
        fits = blocks_for(sequence.prompt_length, self.bench.block_size) + owed <= free
        assert self.scheduler.reserve(sequence) is fits
        assert self.scheduler.pool.free_count == free - len(sequence.blocks)
        if not fits:
            return multiple()
        self.waiting_for_kv.add(sequence)
        return sequence

    @rule(target=sequences, sequence=consumes(reserved))
    def start(self, sequence: Sequence) -> Sequence:
        if sequence not in self.ended:
            self.waiting_for_kv.remove(sequence)
            self.bench.receive(sequence)
        return sequence

    @rule(sequence=sequences | reserved)
    def release(self, sequence: Sequence) -> None:
        known = sequence.key in self.scheduler
        assert self.scheduler.release(sequence.key) is known
        assert sequence.blocks == []
        self.ended.add(sequence)

    @rule(sequence=sequences)
    def park(self, sequence: Sequence) -> None:
        blocks = list(sequence.blocks)
        self.scheduler.park(sequence.key)
        assert sequence.blocks == blocks
        self.ended.add(sequence)

    @rule()
    def supply(self) -> None:
        for sequence in self.scheduler.stalled():
            media = tuple(Media(m.start, m.length, torch.zeros(m.length, 2), m.content) for m in sequence.media)
            self.scheduler.supply(sequence.key, media)
        assert self.scheduler.stalled() == ()

    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self._step()

    @rule(sequence=sequences | reserved, parks=st.booleans(), early=st.booleans())
    def step_while_one_goes(self, sequence: Sequence, parks: bool, early: bool) -> None:
        """It is parked or released while the step computes, before or after the next step is prepared."""

        def go() -> None:
            if parks:
                self.scheduler.park(sequence.key)
            else:
                self.scheduler.release(sequence.key)
            self.ended.add(sequence)

        plan = self.scheduler.schedule()
        result = self.bench.run(plan)
        if early:
            go()
        before = {s: len(s.blocks) for s in self.scheduler.sequences()}
        following = self.scheduler.prepare(plan)
        for s in following:
            assert len(s.token_ids) < len(s.blocks) * self.bench.block_size
            assert len(s.blocks) <= before[s] + 1
        if not early:
            go()
        self.in_batch.update(plan.sequences)
        emitted = self.scheduler.commit(plan, result)
        assert sequence not in [item.sequence for item in emitted]
        self._note(emitted)

    @invariant()
    def every_block_has_the_holders_that_are_counted(self) -> None:
        self.scheduler.check_integrity()

    @invariant()
    def only_what_was_looked_up_is_found(self) -> None:
        kv = self.scheduler.kv
        assert 0 <= kv.hit_tokens <= kv.query_tokens
        assert self.bench.prefix_caching or kv.query_tokens == 0
        for sequence in self.scheduler.sequences():
            assert sequence.computed <= len(sequence.blocks) * self.bench.block_size
            assert (sequence.cached_tokens or 0) < sequence.prompt_length

    @invariant()
    def tokens_are_those_of_the_model(self) -> None:
        for sequence in self.scheduler.sequences():
            assert sequence.computed <= len(sequence.token_ids) <= sequence.limit
            assert self.bench.answer_is_right(sequence)

    def teardown(self) -> None:
        """Everything that was not given up finishes."""
        for sequence in list(self.scheduler.sequences()):
            if sequence in self.ended:
                self.scheduler.release(sequence.key)
            elif sequence in self.waiting_for_kv:
                self.bench.receive(sequence)
        rest = [s for s in self.scheduler.sequences() if s not in self.ended]
        for _ in range(5000):
            if next(self.scheduler.sequences(), None) is None:
                break
            self.supply()
            self._step()
            for sequence in [s for s in self.scheduler.sequences() if s in self.ended]:
                self.scheduler.release(sequence.key)
        assert [s.key for s in self.scheduler.sequences()] == []
        assert all(s.finish_reason or s.goal is Goal.FIRST_TOKEN for s in rest)
        assert all(self.bench.answer_is_right(s) for s in rest)
        assert self.scheduler.pool.free_count == self.bench.blocks

    def _step(self) -> None:
        held = [s for s in self.scheduler.sequences() if s.blocks and s not in self.ended]
        decoding = [s for s in held if s.pending == 1 and s.generated and s in self.in_batch]
        sent = {s: list(s.blocks) for s in held if s.goal is Goal.FIRST_TOKEN}
        plan, emitted = self.bench.step()  # checks that a chunk reads the KV of its own tokens, and writes alone
        planned = list(plan.sequences)
        self.in_batch.update(planned)
        assert plan.tokens <= self.bench.max_batch_tokens
        assert all(c.length >= 1 for c in plan.prompts)
        if plan.decodes:
            assert plan.tokens - len(plan.decodes) <= max(1, self.bench.max_batch_tokens // 4)
        assert len(set(planned)) == len(planned)
        assert self.ended.isdisjoint(planned)
        assert all(s.blocks == blocks for s, blocks in sent.items())
        if any(s.blocks and s not in planned for s in decoding):
            assert plan.tokens == self.bench.max_batch_tokens == len(plan.sequences)
        self._note(emitted)

    def _note(self, emitted: list[Emitted]) -> None:
        for item in emitted:
            if item.finish_reason is not None or item.sequence.goal is Goal.FIRST_TOKEN:
                self.ended.add(item.sequence)


def test_any_sequence_of_events(bench: Callable[..., Any]) -> None:
    machine = type("Machine", (SchedulerMachine,), {"make": bench})
    run_state_machine_as_test(machine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None))
