"""The blocks of each sequence: its own, and those of a prefix that it shares."""

from triptych.engine.blocks import BlockPool, blocks_for
from triptych.engine.digests import full_block_digests
from triptych.engine.sequence import Sequence


class KvCache:
    """Gives sequences blocks, and lets them find what has been computed before.

    A block is shared only when it is full. A sequence that shares it goes on after it, so nobody writes it any more.

    Args:
        blocks: Blocks of the pool.
        block_size: Tokens per block.
        prefix_caching: Whether sequences share blocks, and freed blocks keep their content.
        root: What the KV depends on besides the tokens.
        first: Id of the first block.

    Attributes:
        query_tokens: Prompt tokens that were looked up.
        hit_tokens: How many of them were found.
    """

    def __init__(
        self, blocks: int, block_size: int, *, prefix_caching: bool = True, root: bytes = b"", first: int = 0
    ) -> None:
        self.pool = BlockPool(blocks, first)
        self.block_size = block_size
        self.query_tokens = 0
        self.hit_tokens = 0
        self._prefix_caching = prefix_caching
        self._root = root

    @property
    def tokens(self) -> int:
        """What the whole pool holds."""
        return self.pool.count * self.block_size

    def claim(self, sequence: Sequence) -> bool:
        """Blocks for all tokens of a sequence that has none; False (and nothing taken) when there are too few.

        What is found counts as computed. The last token is never looked up: its row yields the next one.
        """
        found = self._found(sequence)
        blocks = self.pool.allocate(blocks_for(len(sequence.token_ids), self.block_size) - len(found), found)
        if blocks is None:
            return False
        sequence.blocks = blocks
        sequence.findable = len(found)
        sequence.computed = len(found) * self.block_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
            self.query_tokens += sequence.prompt_length if self._prefix_caching else 0
            self.hit_tokens += sequence.cached_tokens
        return True

    def found_tokens(self, sequence: Sequence) -> int:
        """Tokens that `claim` would find computed now."""
        return len(self._found(sequence)) * self.block_size

    def fits(self, sequence: Sequence) -> bool:
        """Whether `claim` would find enough blocks now."""
        found = self._found(sequence)
        return self.pool.has_room(blocks_for(len(sequence.token_ids), self.block_size) - len(found), found)

    def reserve(self, sequence: Sequence, left: int = 0) -> bool:
        """Blocks that somebody else will write, so none of them shared; False when fewer than `left` would remain."""
        count = blocks_for(len(sequence.token_ids), self.block_size)
        blocks = self.pool.allocate(count) if count + left <= self.pool.free_count else None
        if blocks is None:
            return False
        sequence.blocks = blocks
        sequence.cached_tokens = 0
        return True

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for that many tokens; False when there are too few."""
        missing = blocks_for(tokens, self.block_size) - len(sequence.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        sequence.blocks += blocks
        return True

    def publish(self, sequence: Sequence) -> None:
        """Lets others find the blocks that have become full; their KV is computed, or received and verified."""
        full = sequence.computed // self.block_size
        if self._prefix_caching and full > sequence.findable:
            digests = full_block_digests(sequence, self.block_size, self._root)
            for index in range(sequence.findable, full):
                self.pool.remember(sequence.blocks[index], digests[index])
            sequence.findable = full

    def drop(self, sequence: Sequence) -> None:
        """Takes the sequence's blocks back; they keep their content until they are needed."""
        self.pool.free(sequence.blocks)
        sequence.blocks = []

    def clear(self) -> None:
        """Forgets what the blocks contain; nobody may hold one."""
        assert not self.pool.held_count, "a block that is held cannot be forgotten"
        self.pool = BlockPool(self.pool.count, self.pool.first)

    def _found(self, sequence: Sequence) -> list[int]:
        if not self._prefix_caching:
            return []
        digests = full_block_digests(sequence, self.block_size, self._root)
        return self.pool.find(digests[: (len(sequence.token_ids) - 1) // self.block_size])
