"""Whatever comes in whatever order: no block leaks or is shared, no budget is exceeded, every sequence finishes."""

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
from triptych.engine.blocks import BlockPool, blocks_for
from triptych.engine.sequence import Goal, Media, Sequence

# Small pools and small prompts: sequences meet, run out of blocks and are preempted.
PROMPT, ANSWER = st.integers(1, 9), st.integers(2, 12)
MEDIA = st.sampled_from([(), (Media(0, 1, torch.zeros(1, 2), "a"),), (Media(0, 1, None, "b"),)])


Added: TypeAlias = MultipleResults[Sequence] | Sequence


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, start, are parked, supplied and released between the steps."""

    sequences: Bundle[Sequence] = Bundle("sequences")
    reserved: Bundle[Sequence] = Bundle("reserved")

    make: Callable[..., Any]

    @initialize(
        blocks=st.integers(4, 9), block_size=st.integers(1, 3), budget=st.integers(1, 9), running=st.integers(2, 5)
    )
    def open(self, blocks: int, block_size: int, budget: int, running: int) -> None:
        self.bench = self.make(blocks, block_size, budget, running)
        self.scheduler = self.bench.scheduler
        self.ended: set[Sequence] = set()
        self.waiting_for_kv: set[Sequence] = set()
        self.in_batch: set[Sequence] = set()

    @rule(target=sequences, prompt=PROMPT, answer=ANSWER, goal=st.sampled_from(Goal), eos=st.booleans(), media=MEDIA)
    def add(self, prompt: int, answer: int, goal: Goal, eos: bool, media: tuple[Media, ...]) -> Added:
        media = tuple(
            Media(m.start, m.length, torch.zeros(1, 2), m.content) for m in media
        )  # a prompt waits for its embeddings
        if prompt >= self.bench.capacity:
            with pytest.raises(ResourceExhausted, match=rf"{prompt + 1} tokens .* holds {self.bench.capacity};"):
                self.bench.add(prompt, answer)
            return multiple()
        sequence: Sequence = self.bench.add(prompt, answer, goal=goal, media=media, ignore_eos=eos)
        return sequence

    @rule(target=reserved, prompt=PROMPT, answer=ANSWER, media=MEDIA)
    def reserve(self, prompt: int, answer: int, media: tuple[Media, ...]) -> Added:
        sequence: Sequence = self.bench.sequence(min(prompt, self.bench.capacity - 2), answer, media=media)
        free = self.scheduler.pool.free_count
        fits = blocks_for(sequence.prompt_length, self.bench.block_size) <= free
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

    @invariant()
    def every_block_has_one_holder(self) -> None:
        self.scheduler.check_integrity()

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
        plan, emitted = self.bench.step()  # checks that the KV that a chunk reads is its own
        planned = list(plan.sequences)
        self.in_batch.update(planned)
        assert plan.tokens <= self.bench.max_batch_tokens
        assert all(c.length >= 1 for c in plan.prompts)
        assert len(set(planned)) == len(planned)
        assert self.ended.isdisjoint(planned)
        assert all(s.blocks == blocks for s, blocks in sent.items())
        if any(s.blocks and s not in planned for s in decoding):
            assert plan.tokens == self.bench.max_batch_tokens == len(plan.sequences)
        for item in emitted:
            if item.finish_reason is not None or item.sequence.goal is Goal.FIRST_TOKEN:
                self.ended.add(item.sequence)


def test_any_sequence_of_events(bench: Callable[..., Any]) -> None:
    machine = type("Machine", (SchedulerMachine,), {"make": bench})
    run_state_machine_as_test(machine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None))


class PoolMachine(RuleBasedStateMachine):
    """Blocks against a plain set."""

    held: Bundle[list[int]] = Bundle("held")

    @initialize(count=st.integers(0, 20))
    def open(self, count: int) -> None:
        self.pool = BlockPool(count)
        self.holders: list[list[int]] = []

    @rule(target=held, count=st.integers(0, 8))
    def allocate(self, count: int) -> MultipleResults[list[int]] | list[int]:
        free = self.pool.free_count
        blocks = self.pool.allocate(count)
        assert (blocks is None) is (count > free)
        if blocks is None:
            assert self.pool.free_count == free
            return multiple()
        assert len(set(blocks)) == count
        assert set(blocks).isdisjoint(block for holder in self.holders for block in holder)
        self.holders.append(blocks)
        return blocks

    @rule(blocks=consumes(held))
    def free(self, blocks: list[int]) -> None:
        self.holders.remove(blocks)
        self.pool.free(blocks)
        if blocks:
            with pytest.raises(ValueError, match=f"block {blocks[-1]} is freed twice"):
                self.pool.free(blocks[-1:])

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.held_count == sum(map(len, self.holders))
            self.pool.check_integrity(self.holders)


TestPool = PoolMachine.TestCase


@pytest.mark.parametrize(
    ("holders", "defect"),
    [
        ([[0, 1], [1]], "a block has a holder that is not counted"),
        ([[0]], "1 blocks leaked"),
        ([[0, 1, 2]], "a held block is free"),
    ],
)
def test_wrong_books_are_found(holders: list[list[int]], defect: str) -> None:
    pool = BlockPool(3)
    assert pool.allocate(2) == [0, 1]
    pool.check_integrity([[0], [1]])
    with pytest.raises(AssertionError, match=defect):
        pool.check_integrity(holders)


def test_the_block_that_was_freed_first_is_used_first() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    assert blocks is not None
    pool.free([2])
    pool.free([0])
    assert pool.allocate(2) == [2, 0]


def test_tokens_fill_blocks() -> None:
    assert [blocks_for(tokens, 4) for tokens in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
