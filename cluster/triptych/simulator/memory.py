"""A pool of KV blocks: each holds the model's state at its last token, all that a token needs of its past."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from triptych.simulator.tokens import read


class KvMemory:
    """Blocks with holders and contents; those that nobody holds stay findable by name until they are needed.

    Args:
        count: Blocks.
        block_size: Tokens of each.
        caching: Whether blocks are found by name.
    """

    def __init__(self, count: int, block_size: int, *, caching: bool) -> None:
        self.block_size = block_size
        self.values = [0] * count
        self.holders = [0] * count
        self._caching = caching
        self._blank = deque(range(count))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._named: dict[int, int] = {}
        self._names: dict[int, int] = {}

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return len(self.values) - self.free

    @property
    def free(self) -> int:
        """Blocks that can be had."""
        return len(self._blank) + len(self._idle)

    def allocate(self, count: int) -> list[int] | None:
        """So many blocks; None when there are not enough."""
        if count > self.free:
            return None
        blocks = [self._take() for _ in range(count)]
        for block in blocks:
            self.holders[block] = 1
        return blocks

    def find(self, names: Iterable[int]) -> list[int]:
        """The leading blocks of these names that are there, held from now on."""
        found: list[int] = []
        for name in names if self._caching else ():
            block = self._named.get(name)
            if block is None:
                break
            self._idle.pop(block, None)
            self.holders[block] += 1
            found.append(block)
        return found

    def name(self, block: int, name: int) -> None:
        """The block is full, and this is what it is known by; the first of a name keeps it."""
        if self._caching and name not in self._named and block not in self._names:
            self._named[name] = block
            self._names[block] = name

    def free_all(self, blocks: Iterable[int]) -> None:
        """One holder less of each; the end of a sequence is forgotten before its beginning."""
        for block in reversed(list(blocks)):
            self.holders[block] -= 1
            if self.holders[block] == 0:
                if block in self._names:
                    self._idle[block] = None
                else:
                    self._blank.append(block)

    def write(self, blocks: list[int], place: int, inputs: Iterable[int]) -> None:
        """Reads `inputs` from `place` on: each block ends up with the state after its last token."""
        state = self.values[blocks[(place - 1) // self.block_size]] if place else None
        for value in inputs:
            state = read(state, (value,))
            self.values[blocks[place // self.block_size]] = state
            place += 1

    def problems(self, owned: Iterable[list[int]]) -> tuple[str, ...]:
        """What is wrong with the books, where `owned` are the blocks of every sequence."""
        holders = [0] * len(self.values)
        for blocks in owned:
            for block in blocks:
                holders[block] += 1
        wrong = [block for block, count in enumerate(holders) if count != self.holders[block]]
        free = sum(not count for count in self.holders)
        books = f"{free} blocks have no holder and {self.free} can be had"
        return (
            *(
                f"block {block} has {self.holders[block]} holders on paper, {holders[block]} in fact"
                for block in wrong
            ),
            *((books,) if free != self.free else ()),
        )

    def _take(self) -> int:
        if self._blank:
            return self._blank.popleft()
        block, _ = self._idle.popitem(last=False)
        del self._named[self._names.pop(block)]
        return block
