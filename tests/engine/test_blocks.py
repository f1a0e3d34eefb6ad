"""The pool of blocks: who holds them, what they contain when nobody does, and which go first."""

from typing import TypeAlias

import pytest
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
)

from triptych.engine.blocks import BlockPool, blocks_for

NAMES = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=4)
Allocated: TypeAlias = MultipleResults[list[int]] | list[int]


class PoolMachine(RuleBasedStateMachine):
    """Blocks against plain lists of their holders and of what was last said to be in them."""

    held: Bundle[list[int]] = Bundle("held")

    @initialize(count=st.integers(0, 12))
    def open(self, count: int) -> None:
        self.pool = BlockPool(count)
        self.holders: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(target=held, count=st.integers(0, 6), names=NAMES)
    def allocate(self, count: int, names: list[bytes]) -> Allocated:
        shared = self.pool.find(dict.fromkeys(names))
        assert [self.content[block] for block in shared] == list(dict.fromkeys(names))[: len(shared)]
        free = self.pool.free_count
        idle = [block for block in shared if not any(block in holder for holder in self.holders)]
        blocks = self.pool.allocate(count, shared)
        assert (blocks is None) is (count > free - len(idle))
        if blocks is None:
            assert self.pool.free_count == free
            return multiple()
        assert blocks[: len(shared)] == shared
        fresh = blocks[len(shared) :]
        assert len(set(fresh)) == count
        assert set(fresh).isdisjoint(block for holder in [*self.holders, shared] for block in holder)
        for block in fresh:
            self.content.pop(block, None)
        self.holders.append(blocks)
        return blocks

    @rule(blocks=held, name=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def remember(self, blocks: list[int], name: bytes) -> None:
        new = [b for b in blocks if b not in self.content]
        if new and blocks in self.holders:
            known = self.pool.find([name])
            self.pool.remember(new[0], name)
            assert self.pool.find([name]) == (known or new[:1])
            if not known:
                self.content[new[0]] = name

    @rule(blocks=consumes(held))
    def free(self, blocks: list[int]) -> None:
        self.holders.remove(blocks)
        self.pool.free(blocks)
        for block in blocks:
            if not any(block in holder for holder in self.holders):
                with pytest.raises(ValueError, match=f"block {block} is freed twice"):
                    self.pool.free([block])

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.held_count == len({block for holder in self.holders for block in holder})
            self.pool.check_integrity(self.holders)


TestPool = PoolMachine.TestCase


def test_what_was_freed_longest_ago_is_taken_first_and_blank_blocks_before_it() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(4)
    assert blocks == [0, 1, 2, 3]
    for block, name in ((0, b"0"), (1, b"1"), (2, b"2")):
        pool.remember(block, name)
    pool.free([1])
    pool.free([0])
    pool.free([3])
    pool.free([2])
    assert pool.allocate(1) == [3]
    assert pool.find([b"1", b"0", b"2"]) == [1, 0, 2]
    assert pool.allocate(0, [1]) == [1]  # used again, so no longer the oldest
    pool.free([1])
    assert pool.allocate(2) == [0, 2]
    assert (pool.find([b"0"]), pool.find([b"1"]), pool.find([b"2"])) == ([], [1], [])
    pool.check_integrity([[3], [0, 2]])


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    assert blocks is not None
    for block in blocks:
        pool.remember(block, bytes([block]))
    pool.free(blocks)
    assert pool.allocate(1) == [2]
    assert pool.find([b"\0", b"\1", b"\2"]) == [0, 1]


def test_a_shared_block_is_free_when_its_last_holder_has_freed_it() -> None:
    pool = BlockPool(2)
    assert pool.allocate(1) == [0]
    pool.remember(0, b"x")
    assert pool.allocate(1, pool.find([b"x"])) == [0, 1]
    pool.free([0])
    assert (pool.held_count, pool.free_count) == (2, 0)
    assert pool.allocate(1) is None
    pool.free([0, 1])
    assert (pool.held_count, pool.find([b"x"])) == (0, [0])


def test_what_is_shared_does_not_count_as_room() -> None:
    pool = BlockPool(2)
    assert pool.allocate(1) == [0]
    pool.remember(0, b"x")
    pool.free([0])
    assert pool.allocate(2, pool.find([b"x"])) is None
    assert pool.find([b"x"]) == [0]
    assert pool.allocate(1, pool.find([b"x"])) == [0, 1]


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
