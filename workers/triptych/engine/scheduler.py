"""Continuous batching: which tokens of which sequences run in the next step, and in which blocks.

Pure: no tensors are touched, no clock is read. Decode tokens come first, so that a long prompt never holds a running
answer up for longer than one step; what is left of the token budget goes to prefill chunks (Sarathi-Serve,
arXiv:2403.02310). When blocks run out the youngest answer gives its blocks back and is computed again later; those of
a prompt for somebody else stay, because a transfer may be reading them.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from triptych.core.errors import ResourceExhausted
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.engine.blocks import BlockPool, blocks_for
from triptych.engine.plan import Chunk, StepPlan, StepResult
from triptych.engine.sequence import Goal, Media, Sequence


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Limits of one step.

    Attributes:
        max_batch_tokens: Rows of a step.
        max_running: Sequences that hold blocks to compute in.
    """

    max_batch_tokens: int = 512
    max_running: int = 64


@dataclass(frozen=True, slots=True)
class Emitted:
    """A sequence got a token, and perhaps its end."""

    sequence: Sequence
    token: GeneratedToken
    finish_reason: FinishReason | None


class _Batch:
    """Chunks of the step being planned, and the rows that are left."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.chunks: list[Chunk] = []

    def add(self, sequence: Sequence) -> None:
        length = min(sequence.pending, self.budget)
        self.chunks.append(Chunk(sequence, sequence.computed, length))
        self.budget -= length


class Scheduler:
    """Owns every sequence of an engine and the blocks that it holds, until `release`."""

    def __init__(
        self, pool: BlockPool, block_size: int, eos_token_ids: Iterable[int], options: SchedulerOptions
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.options = options
        self.preemptions = 0
        self._eos = frozenset(eos_token_ids)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[OperationKey, Sequence] = {}
        self._ready: dict[OperationKey, Sequence] = {}  # have blocks and KV, and wait for a place in the batch
        self._stalled: dict[OperationKey, Sequence] = {}  # preempted, and their embeddings are elsewhere
        self._parked: dict[OperationKey, Sequence] = {}  # hold blocks, compute nothing: reserved or finished

    def __contains__(self, key: OperationKey) -> bool:
        """Whether `release(key)` is still due."""
        return self.find(key) is not None

    @property
    def running(self) -> int:
        """Sequences that compute."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch."""
        return len(self._waiting) + len(self._ready) + len(self._stalled)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens not computed yet, of every sequence."""
        return sum(s.pending for s in (*self._waiting, *self._running.values()) if s.pending > 1)

    def sequences(self) -> Iterator[Sequence]:
        """Every sequence that has not been released."""
        yield from self._waiting
        for group in (self._running, self._ready, self._stalled, self._parked):
            yield from group.values()

    def find(self, key: OperationKey) -> Sequence | None:
        """The sequence of that key, unless it has been released."""
        for group in (self._running, self._ready, self._parked, self._stalled):
            if key in group:
                return group[key]
        return next((s for s in self._waiting if s.key == key), None)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence.

        Raises:
            ResourceExhausted: it could not run even alone.
        """
        self.require_room(len(sequence.token_ids) + 1, sequence.key.request_id)
        self._waiting.append(sequence)

    def require_room(self, tokens: int, request_id: str) -> None:
        """Refuses what the whole pool could not hold."""
        capacity = self.pool.count * self.block_size
        if tokens > capacity:
            raise ResourceExhausted(
                f"{tokens} tokens do not fit the KV cache, which holds {capacity}; raise kv_cache.memory",
                field="kv_cache.memory",
                request_id=request_id,
            )

    def reserve(self, sequence: Sequence) -> bool:
        """Takes blocks for a sequence whose KV will be written from outside; False when there are not enough."""
        blocks = self.pool.allocate(blocks_for(len(sequence.token_ids), self.block_size))
        if blocks is None:
            return False
        sequence.blocks = blocks
        self._parked[sequence.key] = sequence
        return True

    def start(self, key: OperationKey) -> None:
        """Lets a reserved sequence compute as soon as the batch has a place; its KV is there up to `computed`."""
        self._ready[key] = self._parked.pop(key)

    def supply(self, key: OperationKey, media: tuple[Media, ...]) -> None:
        """Gives a stalled sequence its embeddings back, so that it can be computed again."""
        if sequence := self._stalled.pop(key, None):
            sequence.media = media
            self._waiting.appendleft(sequence)

    def stalled(self) -> tuple[Sequence, ...]:
        """Preempted sequences that need `supply`."""
        return tuple(self._stalled.values())

    def release(self, key: OperationKey) -> bool:
        """Stops a sequence and frees its blocks; False when it is not known (any more)."""
        sequence = self.find(key)
        if sequence is None:
            return False
        self._forget(sequence)
        self.pool.free(sequence.blocks)
        sequence.blocks = []
        return True

    def park(self, key: OperationKey) -> None:
        """Stops a sequence that keeps its blocks until `release`."""
        if sequence := self.find(key):
            self._forget(sequence)
            self._parked[key] = sequence

    def schedule(self) -> StepPlan:
        """The next step; no chunks when there is nothing to do."""
        self._promote()
        batch = _Batch(self.options.max_batch_tokens)
        preemptions = self.preemptions
        for decode in (True, False):
            for sequence in list(self._running.values()):
                wanted = sequence.key in self._running and (sequence.pending == 1) is decode
                if batch.budget and wanted and self._make_room(sequence):
                    batch.add(sequence)
        if self.preemptions == preemptions:  # what was just taken back is not handed out again at once
            while batch.budget and (admitted := self._admit()):
                batch.add(admitted)
        return StepPlan(tuple(chunk for chunk in batch.chunks if chunk.sequence.key in self._running))

    def commit(self, plan: StepPlan, result: StepResult) -> list[Emitted]:
        """Books a finished step: lengths grow, tokens are appended, ended sequences stop."""
        emitted = []
        tokens = iter(result.tokens)
        for chunk in plan.chunks:
            sequence, samples = chunk.sequence, chunk.samples
            token = next(tokens) if samples else None
            sequence.computed = chunk.start + chunk.length
            if token is not None:
                sequence.token_ids.append(token.token_id)
                emitted.append(self._settle(sequence, token))
        return emitted

    def check_integrity(self) -> None:
        """Asserts that every block is free or held by exactly one sequence."""
        self.pool.check_integrity(sequence.blocks for sequence in self.sequences())

    def _settle(self, sequence: Sequence, token: GeneratedToken) -> Emitted:
        reason = self._finish_reason(sequence, token.token_id)
        sequence.finish_reason = reason
        if reason is not None or sequence.goal is Goal.FIRST_TOKEN:
            self._parked[sequence.key] = self._running.pop(sequence.key)
        return Emitted(sequence, token, reason)

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        if token_id in sequence.params.stop_token_ids:
            return FinishReason.STOP
        if token_id in self._eos and not sequence.params.ignore_eos:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(sequence.token_ids) >= sequence.limit else None

    def _promote(self) -> None:
        """Sequences that have their KV come before those that would have to compute it."""
        while self._ready and len(self._running) < self.options.max_running:
            key = next(iter(self._ready))
            self._running[key] = self._ready.pop(key)

    def _admit(self) -> Sequence | None:
        """Moves the longest waiting sequence into the batch when there is a place and all its blocks."""
        if not self._waiting or len(self._running) >= self.options.max_running:
            return None
        sequence = self._waiting[0]
        blocks = self.pool.allocate(blocks_for(len(sequence.token_ids), self.block_size))
        if blocks is None:
            return None
        sequence.blocks = blocks
        self._running[sequence.key] = self._waiting.popleft()
        return sequence

    def _make_room(self, sequence: Sequence) -> bool:
        """Blocks for every token that the sequence has; False when it had to give way itself."""
        missing = blocks_for(len(sequence.token_ids), self.block_size) - len(sequence.blocks)
        if missing <= 0:
            return True
        while (blocks := self.pool.allocate(missing)) is None:
            victim = next(s for s in reversed(self._running.values()) if s.goal is Goal.ANSWER)
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += blocks
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        del self._running[sequence.key]
        self.pool.free(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0
        if sequence.can_recompute:
            self._waiting.appendleft(sequence)
        else:
            self._stalled[sequence.key] = sequence

    def _forget(self, sequence: Sequence) -> None:
        for group in (self._running, self._ready, self._stalled, self._parked):
            if group.pop(sequence.key, None) is not None:
                return
        self._waiting.remove(sequence)
