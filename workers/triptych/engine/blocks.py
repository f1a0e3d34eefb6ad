"""The pool of KV blocks: who may write where."""

from collections import deque
from collections.abc import Iterable


class BlockPool:
    """Hands out block ids; a block is free or held once.

    Ids are reused oldest first, so that a stale reader of a freed block meets old data as late as possible.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: deque[int] = deque(range(count))
        self._held = bytearray(count)

    @property
    def free_count(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    @property
    def held_count(self) -> int:
        """Blocks that somebody has to free."""
        return self.count - len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks, or None (and nothing taken) when there are not as many."""
        if count > len(self._free):
            return None
        blocks = [self._free.popleft() for _ in range(count)]
        for block in blocks:
            self._held[block] = 1
        return blocks

    def free(self, blocks: Iterable[int]) -> None:
        """Takes blocks back.

        Raises:
            ValueError: a block is not held; freeing twice is a defect that must not pass.
        """
        for block in blocks:
            if not self._held[block]:
                raise ValueError(f"block {block} is freed twice")
            self._held[block] = 0
            self._free.append(block)

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Asserts that `holders` together hold exactly the blocks that are not free, each once."""
        held = [block for blocks in holders for block in blocks]
        assert len(held) == len(set(held)), "a block has two holders"
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert set(held).isdisjoint(self._free), "a held block is free"
        assert len(held) + len(self._free) == self.count, f"{self.count - len(held) - len(self._free)} blocks leaked"


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that `tokens` tokens fill, the last one perhaps in part."""
    return -(-tokens // block_size)
