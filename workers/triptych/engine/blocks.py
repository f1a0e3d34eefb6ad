"""The pool of KV blocks: who holds which, and what those that nobody holds still contain.

A block is blank, held or idle. It is held from `allocate` until its last holder frees it. If `remember` has named its
content by then, it is idle: whoever looks for that content finds it and holds it again, until it is taken for other
content, the least recently used first. Otherwise it is blank, and blank blocks are taken before idle ones.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out block ids; a block may have several holders, who all read it.

    Blank ids are reused oldest first, so that a stale reader of a freed block meets old data as late as possible.

    Args:
        count: Blocks of the pool.
        first: Id of the first of them.
    """

    def __init__(self, count: int, first: int = 0) -> None:
        self.count = count
        self.first = first
        self._holders = [0] * (first + count)
        self._blank = deque(range(first, first + count))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def free_count(self) -> int:
        """Blocks that can be allocated now, whatever they contain."""
        return len(self._blank) + len(self._idle)

    @property
    def held_count(self) -> int:
        """Blocks that somebody has to free."""
        return self.count - self.free_count

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks with these contents, up to the first that is not there."""
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def has_room(self, count: int, shared: Sequence[int] = ()) -> bool:
        """Whether `allocate` would have them."""
        return count <= self.free_count - sum(not self._holders[block] for block in shared)

    def allocate(self, count: int, shared: Sequence[int] = ()) -> list[int] | None:
        """One more hold on each of `shared`, which `find` just found, and `count` blocks for new content after them.

        Returns:
            The blocks; None (and nothing taken) when there are not as many.
        """
        if not self.has_room(count, shared):
            return None
        for block in shared:
            self._idle.pop(block, None)
            self._holders[block] += 1
        return [*shared, *(self._take() for _ in range(count))]

    def remember(self, block: int, digest: bytes) -> None:
        """The held block's content is complete and has this name; the first block of a name is the one to find."""
        if digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def free(self, blocks: Sequence[int]) -> None:
        """Ends one hold on each block; the end of a sequence is forgotten before its beginning.

        Raises:
            ValueError: a block is not held; freeing twice is a defect that must not pass.
        """
        for block in reversed(blocks):
            if not self._holders[block]:
                raise ValueError(f"block {block} is freed twice")
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._blank.append(block)

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Asserts that `holders` are exactly those that are counted, and that every block is where it belongs."""
        counted = [0] * len(self._holders)
        for blocks in holders:
            for block in blocks:
                counted[block] += 1
        free = [*self._blank, *self._idle]
        assert len(set(free)) == len(free), "a block is free twice"
        assert not any(counted[block] for block in free), "a held block is free"
        leaked = sum(a < b for a, b in zip(counted, self._holders, strict=True))
        assert not leaked, f"{leaked} blocks leaked"
        assert counted == self._holders, "a block has a holder that is not counted"
        assert self.held_count == sum(map(bool, counted)), f"{self.held_count - sum(map(bool, counted))} blocks lost"
        assert {d: b for b, d in self._digest_of.items()} == self._block_of, "a name leads to another block"
        assert self._digest_of.keys().isdisjoint(self._blank), "a blank block has a name"
        assert self._digest_of.keys() >= self._idle.keys(), "an idle block has no name"

    def _take(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._holders[block] = 1
        return block


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that `tokens` tokens fill, the last one perhaps in part."""
    return -(-tokens // block_size)
