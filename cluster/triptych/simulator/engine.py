"""The modelled engine of a decoder worker: continuous batches, chunked prompts, blocks, preemption by recompute."""

from collections import deque
from dataclasses import dataclass, field

from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.jobs.events import Computed, Sampled
from triptych.simulator.memory import KvMemory
from triptych.simulator.messages import Prompt
from triptych.simulator.scenario import CostSpec
from triptych.simulator.tokens import END_TOKEN, mix, next_token, row


@dataclass(slots=True, eq=False)
class Sequence:
    """One operation as the engine sees it; `computed <= len(tokens)`.

    Attributes:
        tokens: Prompt and answer.
        first_only: Stops after one token: somebody else decodes.
        deadline: On the worker's clock.
        embeddings: By picture; None where they are elsewhere.
        computed: Leading tokens whose KV is in `blocks`.
        named: Leading blocks that have names.
        cached: Prompt tokens that were found when it began; None before.
    """

    key: OperationKey
    prompt: Prompt
    tokens: list[int]
    first_only: bool
    deadline: float | None
    embeddings: dict[str, int] | None
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)
    named: int = 0
    cached: int | None = None

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def computable(self) -> bool:
        """Whether its embeddings are at hand."""
        return not self.prompt.spans or self.embeddings is not None

    def inputs(self, start: int, end: int) -> list[int]:
        """What the positions `[start, end)` read."""
        values = self.tokens[start:end]
        for span in self.prompt.spans:
            for place in range(max(start, span.start), min(end, span.start + span.length)):
                assert self.embeddings is not None
                values[place - start] = row(self.embeddings[span.picture], place - span.start)
        return values

    def name_blocks(self, block_size: int) -> list[int]:
        """Names of the leading full blocks, of everything that their KV depends on."""
        while (len(self.names) + 1) * block_size <= len(self.tokens):
            start = len(self.names) * block_size
            name = self.names[-1] if self.names else 0
            for place in range(start, start + block_size):
                name = mix(name, self._content(place))
            self.names.append(name)
        return self.names

    def _content(self, place: int) -> int:
        for span in self.prompt.spans:
            if span.start <= place < span.start + span.length:
                return row(int.from_bytes(span.picture.encode()), place - span.start)
        return self.tokens[place]


@dataclass(frozen=True, slots=True)
class Step:
    """A step under way: how many tokens of which sequences."""

    chunks: tuple[tuple[Sequence, int], ...]
    seconds: float


class Engine:
    """Every sequence of a worker.

    Args:
        memory: Its blocks.
        max_batch_tokens: Rows of a step.
        max_running: Sequences of a step.
        costs: How long a step takes.
    """

    def __init__(self, memory: KvMemory, max_batch_tokens: int, max_running: int, costs: CostSpec) -> None:
        self.memory = memory
        self.sequences: dict[OperationKey, Sequence] = {}
        self.steps = 0
        self.preemptions = 0
        self.computed_tokens = 0
        self._max_batch_tokens = max_batch_tokens
        self._max_running = max_running
        self._costs = costs
        self._queue: deque[Sequence] = deque()
        self._ready: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._stalled: dict[Sequence, None] = {}

    @property
    def waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch; a stalled one waits for its embeddings."""
        return len(self._queue) + len(self._ready)

    @property
    def runnable(self) -> int:
        """Sequences that a step could be computed for."""
        return len(self._running) + len(self._ready) + len(self._queue)

    @property
    def stalled(self) -> tuple[Sequence, ...]:
        """Preempted sequences whose embeddings are elsewhere."""
        return tuple(self._stalled)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self.sequences[sequence.key] = sequence
        self._queue.append(sequence)

    def reserve(self, sequence: Sequence) -> bool:
        """Blocks for KV that is written from outside; False when there are too few beside those of stalled ones."""
        size = self.memory.block_size
        needed, *owed = (-(-len(each.tokens) // size) for each in (sequence, *self._stalled))
        blocks = self.memory.allocate(needed) if needed + sum(owed) <= self.memory.free else None
        if blocks is None:
            return False
        sequence.blocks = blocks
        self.sequences[sequence.key] = sequence
        return True

    def start(self, key: OperationKey, emitted: tuple[int, ...]) -> None:
        """Lets a reserved sequence decode, its KV being there but for the last of `emitted`."""
        sequence = self.sequences[key]
        sequence.computed = len(sequence.tokens)
        sequence.cached = 0
        sequence.tokens = [*sequence.prompt.token_ids, *emitted]
        self._publish(sequence)
        self._ready.append(sequence)

    def supply(self, key: OperationKey, embeddings: dict[str, int]) -> None:
        """A stalled sequence gets its embeddings."""
        sequence = self.sequences[key]
        sequence.embeddings = embeddings
        if sequence in self._stalled:
            del self._stalled[sequence]
            self._queue.appendleft(sequence)

    def park(self, key: OperationKey) -> None:
        """Stops a sequence, which keeps its blocks."""
        if sequence := self.sequences.get(key):
            self._stop(sequence)

    def release(self, key: OperationKey) -> None:
        """Stops a sequence and takes its blocks."""
        sequence = self.sequences.pop(key)
        self._stop(sequence)
        self._drop(sequence)

    def plan(self) -> Step | None:
        """The next step; None when there is nothing to compute."""
        while self._ready and len(self._running) < self._max_running:
            self._running.append(self._ready.popleft())
        preemptions = self.preemptions
        self._make_room()
        decodes = [s for s in self._running if s.pending == 1][: self._max_batch_tokens]
        room = self._max_batch_tokens - len(decodes)
        room = min(room, max(1, self._max_batch_tokens // 4)) if decodes else room
        chunks = [(s, 1) for s in decodes]
        for sequence in [s for s in self._running if s.pending > 1]:
            room = _add(chunks, sequence, room)
        while room and preemptions == self.preemptions and (admitted := self._admit()):
            room = _add(chunks, admitted, room)
        if not chunks:
            return None
        costs = self._costs
        rows = sum(count for _, count in chunks) - len(decodes)
        read = sum(s.computed for s, _ in chunks)
        seconds = costs.step + rows * costs.prompt_token + len(decodes) * costs.answer_row + read * costs.kv_token
        return Step(tuple(chunks), seconds)

    def finish(self, step: Step) -> tuple[tuple[Computed, ...], tuple[Sampled, ...]]:
        """A step has been computed: KV is written, tokens are drawn."""
        self.steps += 1
        computed: list[Computed] = []
        sampled: list[Sampled] = []
        for sequence, count in step.chunks:
            end = sequence.computed + count
            self.memory.write(sequence.blocks, sequence.computed, sequence.inputs(sequence.computed, end))
            self.computed_tokens += count
            sequence.computed = end
            self._publish(sequence)
            computed.append(Computed(sequence.key, end))
            if not sequence.pending:
                sampled.append(self._sample(sequence))
        return tuple(computed), tuple(sampled)

    def _sample(self, sequence: Sequence) -> Sampled:
        prompt, values = sequence.prompt, self.memory.values
        position = len(sequence.tokens) - len(prompt.token_ids)
        token = next_token(
            (values[block] for block in sequence.blocks[: self._full(sequence)]), prompt.seed, position
        )
        sequence.tokens.append(token)
        reason = FinishReason.STOP if token == END_TOKEN else None
        if reason is None and position + 1 >= prompt.limit:
            reason = FinishReason.LENGTH
        if reason is not None or sequence.first_only:
            self._stop(sequence)
        return Sampled(sequence.key, position, GeneratedToken(token), reason, sequence.cached or 0)

    def _full(self, sequence: Sequence) -> int:
        return -(-sequence.computed // self.memory.block_size)

    def _admit(self) -> Sequence | None:
        if not self._queue or len(self._running) >= self._max_running or not self._claim(self._queue[0]):
            return None
        sequence = self._queue.popleft()
        self._running.append(sequence)
        return sequence

    def _claim(self, sequence: Sequence) -> bool:
        """Blocks for all of its tokens, those that are found by name first; the last token is always computed."""
        memory, length = self.memory, len(sequence.tokens)
        names = sequence.name_blocks(memory.block_size)[: (length - 1) // memory.block_size]
        found = memory.find(names)
        fresh = memory.allocate(-(-length // memory.block_size) - len(found))
        if fresh is None:
            memory.free_all(found)
            return False
        sequence.blocks = found + fresh
        sequence.computed = len(found) * memory.block_size
        sequence.named = len(found)
        if sequence.cached is None:
            sequence.cached = min(sequence.computed, len(sequence.prompt.token_ids))
        return True

    def _make_room(self) -> None:
        size = self.memory.block_size
        for sequence in [s for s in self._running if len(s.tokens) > len(s.blocks) * size]:
            while sequence in self._running:
                block = self.memory.allocate(1)
                if block is not None:
                    sequence.blocks += block
                    break
                self._preempt(next(s for s in reversed(self._running) if not s.first_only))

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._running.remove(sequence)
        self._drop(sequence)
        if sequence.computable:
            self._queue.appendleft(sequence)
        else:
            self._stalled[sequence] = None

    def _publish(self, sequence: Sequence) -> None:
        size = self.memory.block_size
        full = sequence.computed // size
        if full > sequence.named:
            names = sequence.name_blocks(size)
            for place in range(sequence.named, full):
                self.memory.name(sequence.blocks[place], names[place])
            sequence.named = full

    def _drop(self, sequence: Sequence) -> None:
        self.memory.free_all(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.named = [], 0, 0

    def _stop(self, sequence: Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._queue:
            self._queue.remove(sequence)
        elif sequence in self._ready:
            self._ready.remove(sequence)
        self._stalled.pop(sequence, None)


def _add(chunks: list[tuple[Sequence, int]], sequence: Sequence, room: int) -> int:
    count = min(sequence.pending, room)
    if count:
        chunks.append((sequence, count))
    return room - count
