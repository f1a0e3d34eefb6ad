"""Continuous batching: which tokens of which sequences run in the next step, and in which blocks.

Pure: no tensors are touched, no clock is read. Decode tokens come first, so that a long prompt never holds a running
answer up for longer than one step; what is left of the token budget goes to prefill chunks (Sarathi-Serve,
arXiv:2403.02310), and no more than a quarter of the whole budget beside answers: the time between two tokens of an
answer is then that of a step of so many rows, whatever prompts come in. When blocks run out the youngest answer gives
its blocks back and is computed again later; those of a prompt for somebody else stay, because a transfer may be
reading them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from triptych.core.errors import ResourceExhausted
from triptych.core.generation import FinishReason, OperationKey, PositionLogprobs
from triptych.engine.blocks import BlockPool, blocks_for
from triptych.engine.chunks import Chunks, WholeImages, image_ahead
from triptych.engine.kv_cache import KvCache
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.roster import Roster
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.engine.turns import Turns


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Limits of one step.

    Attributes:
        max_batch_tokens: Rows of a step.
        max_running: Sequences that hold blocks to compute in.
        prefix_caching: Whether the KV of equal beginnings is computed once.
    """

    max_batch_tokens: int = 512
    max_running: int = 64
    prefix_caching: bool = True

    @property
    def prompt_rows_beside_answers(self) -> int:
        """Rows of prompts in a step that also takes answers on."""
        return max(1, self.max_batch_tokens // 4)


class Emitted(NamedTuple):
    """A sequence got a token, and perhaps its end.

    Attributes:
        position: The token's place in the answer, from 0.
    """

    sequence: Sequence
    position: int
    token_id: int
    finish_reason: FinishReason | None
    logprobs: PositionLogprobs | None


class Scheduler:
    """Owns every sequence of an engine and the blocks that it holds, until `release`.

    A step may be computing between `schedule` and `commit`. In that time sequences may be added, parked and released,
    whether they are in the step or not; `reserve` has to wait, because a block that was given back is written until
    the step's end.

    Args:
        kv: The blocks.
        options: Limits of one step.
        whole_images: The tokens of an image see each other, so that all of them must be computed in one step.
        turns: Where the experts of all answers do not fit: whose turn it is.
    """

    def __init__(
        self, kv: KvCache, options: SchedulerOptions, *, whole_images: bool = False, turns: Turns | None = None
    ) -> None:
        self.kv = kv
        self.options = options
        self.preemptions = 0
        self._roster = Roster()
        self._whole_images = whole_images
        self._turns = turns

    def __contains__(self, key: OperationKey) -> bool:
        """Whether `release(key)` is still due."""
        return self.find(key) is not None

    @property
    def pool(self) -> BlockPool:
        """The blocks."""
        return self.kv.pool

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.kv.block_size

    @property
    def running(self) -> int:
        """Sequences that compute."""
        return len(self._roster.running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch; a stalled one waits for its embeddings."""
        return len(self._roster.waiting) + len(self._roster.ready)

    @property
    def runnable(self) -> int:
        """Sequences that a step could be computed for now: those of the batch, or else the first to come into it."""
        running = self.running + len(self._roster.ready)
        if running or not self._roster.waiting:
            return running
        return int(self.kv.fits(self._roster.waiting[0]))

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens not computed yet, of every sequence."""
        pending = (s.pending for group in (self._roster.waiting, self._roster.running) for s in group)
        return sum(tokens for tokens in pending if tokens > 1)

    def sequences(self) -> Iterator[Sequence]:
        """Every sequence that has not been released."""
        return iter(self._roster)

    def find(self, key: OperationKey) -> Sequence | None:
        """The sequence of that key, unless it has been released."""
        return self._roster.find(key)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence.

        Raises:
            ResourceExhausted: it could not run even alone.
        """
        self.require_room(len(sequence.token_ids) + 1, sequence.key.request_id)
        self.require_whole(sequence.media, sequence.key.request_id)
        self._roster.wait(sequence)

    def require_room(self, tokens: int, request_id: str) -> None:
        """Refuses what the whole pool could not hold."""
        if tokens > self.kv.tokens:
            raise ResourceExhausted(
                f"{tokens} tokens do not fit the KV cache, which holds {self.kv.tokens}; raise kv_cache.memory",
                field="kv_cache.memory",
                request_id=request_id,
            )

    def require_whole(self, media: tuple[Media, ...], request_id: str) -> None:
        """Refuses an image that no step could hold, where it must be computed in one."""
        largest = max((image.length for image in media), default=0)
        if self._whole_images and largest > self.options.max_batch_tokens:
            raise ResourceExhausted(
                f"an image of {largest} tokens must be computed in one step, which holds "
                f"{self.options.max_batch_tokens}; raise max_batch_tokens",
                field="max_batch_tokens",
                request_id=request_id,
            )

    def reserve(self, sequence: Sequence) -> bool:
        """Takes blocks for a sequence whose KV will be written from outside; False when there are not enough.

        What stalled answers gave back is left for them: they would give way again and again to a stream of new ones.
        """
        owed = sum(blocks_for(len(stalled.token_ids), self.block_size) for stalled in self._roster.stalled)
        if not self.kv.reserve(sequence, owed):
            return False
        self._roster.hold(sequence)
        return True

    def start(self, key: OperationKey) -> None:
        """Lets a reserved sequence compute as soon as the batch has a place; its KV is there up to `computed`."""
        if sequence := self.find(key):
            self.kv.publish(sequence)
            self._roster.make_ready(sequence)

    def supply(self, key: OperationKey, media: tuple[Media, ...]) -> None:
        """Gives a stalled sequence its embeddings back, so that it can be computed again."""
        self._roster.supply(key, media)

    def stalled(self) -> tuple[Sequence, ...]:
        """Preempted sequences that need `supply`."""
        return tuple(self._roster.stalled)

    def release(self, key: OperationKey) -> bool:
        """Stops a sequence and frees its blocks; False when it is not known (any more)."""
        sequence = self.find(key)
        if sequence is None:
            return False
        self._roster.remove(sequence)
        self.kv.drop(sequence)
        if self._turns is not None:
            self._turns.forget(sequence)
        return True

    def park(self, key: OperationKey) -> None:
        """Stops a sequence that keeps its blocks until `release`."""
        if sequence := self.find(key):
            self._roster.park(sequence)

    def schedule(self) -> StepPlan:
        """The next step; empty when there is nothing to do."""
        self._roster.promote(self.options.max_running)
        preemptions = self.preemptions
        self._make_room()
        budget = self.options.max_batch_tokens
        decodes = tuple([s for s in self._roster.running if len(s.token_ids) - s.computed == 1][:budget])
        begun = [s for s in self._roster.running if len(s.token_ids) - s.computed > 1]
        image = image_ahead(begun[0]) if begun and self._whole_images else 0
        decodes = decodes[: budget - image]  # an image that leaves too little room for answers has the step
        room = min(budget - len(decodes), self.options.prompt_rows_beside_answers) if decodes else budget
        prompts = WholeImages(max(room, image)) if self._whole_images else Chunks(room)
        for sequence in begun:
            prompts.add(sequence)
        if self.preemptions == preemptions:  # what was just taken back is not handed out again at once
            while prompts.room and (admitted := self._admit()):
                prompts.add(admitted)
        if self._turns is not None and not prompts.chunks:  # a prompt needs nearly every expert, whoever is beside it
            decodes = self._turns.choose(decodes)
        return StepPlan(decodes, tuple(prompts.chunks))

    def prepare(self, plan: StepPlan) -> tuple[Sequence, ...]:
        """While a step computes: the blocks for the tokens after it, as far as there are any without preemption.

        Returns:
            The answers that will go on unless their token ends them, if all of them have their block.
        """
        following = []
        running, block_size = self._roster.running, self.kv.block_size
        for sequence in plan.sampling:
            length = len(sequence.token_ids) + 1
            if length >= sequence.limit or sequence.goal is Goal.FIRST_TOKEN or sequence not in running:
                continue
            if length > len(sequence.blocks) * block_size and not self.kv.grow(sequence, length):
                return ()
            following.append(sequence)
        return tuple(following)

    def commit(self, plan: StepPlan, result: StepResult) -> list[Emitted]:
        """Books a finished step: lengths grow, tokens are appended, ended sequences stop.

        What was parked or released while the step computed stays as it is.
        """
        running = self._roster.running
        emitted = []
        sampling = plan.sampling
        if self._turns is not None and result.routes is not None:
            self._turns.learn(plan, result.routes, running)
        for sequence in plan.decodes:
            if sequence in running:
                self._advance(sequence, 1)
        for chunk in plan.prompts:
            if chunk.sequence in running:
                self._advance(chunk.sequence, chunk.length)
        for place, (sequence, token_id) in enumerate(zip(sampling, result.token_ids, strict=True)):
            if sequence in running:
                position, reason = self._append(sequence, token_id)
                emitted.append(Emitted(sequence, position, token_id, reason, result.logprobs.get(place)))
        return emitted

    def forget(self) -> None:
        """Every block has lost its content: what computes begins again with its tokens, in the order it had."""
        self._roster.promote(len(self._roster))
        for sequence in reversed([*self._roster.running]):
            self._take_back(sequence)
        for sequence in self._roster.parked:
            self.kv.drop(sequence)
        self.kv.clear()

    def check_integrity(self) -> None:
        """Asserts that every block is free or held by exactly the sequences that list it."""
        self.pool.check_integrity(sequence.blocks for sequence in self.sequences())

    def _advance(self, sequence: Sequence, tokens: int) -> None:
        sequence.computed += tokens
        if sequence.computed // self.block_size > sequence.findable:
            self.kv.publish(sequence)

    def _append(self, sequence: Sequence, token_id: int) -> tuple[int, FinishReason | None]:
        """The token's place in the answer, and whether it ends the sequence, which then stops."""
        position = sequence.generated
        sequence.token_ids.append(token_id)
        reason = sequence.finish_reason = self._finish_reason(sequence, token_id)
        if reason is not None or sequence.goal is Goal.FIRST_TOKEN:
            self._roster.park(sequence)
        return position, reason

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        if token_id in sequence.params.ends and sequence.generated > sequence.params.min_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(sequence.token_ids) >= sequence.limit else None

    def _admit(self) -> Sequence | None:
        """Moves the longest waiting sequence into the batch when there is a place and all its blocks."""
        if not self._roster.waiting or self.running >= self.options.max_running:
            return None
        sequence = self._roster.waiting[0]
        if not self.kv.claim(sequence):
            return None
        self._roster.admit()
        return sequence

    def _make_room(self) -> None:
        """Blocks for every token of every running sequence, the oldest first; the youngest answers give way."""
        running, block_size = self._roster.running, self.kv.block_size
        for sequence in [s for s in running if len(s.token_ids) > len(s.blocks) * block_size]:
            while sequence in running and not self.kv.grow(sequence, len(sequence.token_ids)):
                self.preemptions += 1
                self._take_back(next(s for s in reversed(running) if s.goal is Goal.ANSWER))

    def _take_back(self, sequence: Sequence) -> None:
        self.kv.drop(sequence)
        sequence.computed = 0
        self._roster.send_back(sequence)
