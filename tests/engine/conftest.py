"""A scheduler whose model is a table: what was written in each slot of the KV pool, and by whom."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from triptych.core.generation import OperationKey
from triptych.core.sampling import SamplingParams
from triptych.engine.kv_cache import KvCache
from triptych.engine.lanes import Lanes
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import Emitted, Scheduler, SchedulerOptions
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.engine.turns import Turns

EOS = 0
Content: TypeAlias = tuple[tuple[int, ...], tuple[str, ...]]


@dataclass
class Bench:
    """A scheduler of `blocks` blocks in each lane, and a model that checks what it reads before it writes.

    The token after position p of request n is `token_after(n, p)`: it does not depend on the schedule, so a sequence
    that was preempted must go on as if nothing had happened.
    """

    blocks: int = 8
    block_size: int = 4
    max_batch_tokens: int = 16
    max_running: int = 8
    prefix_caching: bool = True
    whole_images: bool = False
    lanes: int = 1
    turns: Turns | None = None
    routes: Callable[[Sequence], npt.NDArray[np.int32]] | None = None
    written: dict[tuple[int, int], Content] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        options = SchedulerOptions(self.max_batch_tokens, self.max_running)

        def lane(place: int) -> Scheduler:
            first = place * self.blocks
            cache = KvCache(self.blocks, self.block_size, prefix_caching=self.prefix_caching, first=first)
            return Scheduler(cache, options, whole_images=self.whole_images, turns=self.turns)

        self.scheduler: Any = lane(0) if self.lanes == 1 else Lanes(tuple(map(lane, range(self.lanes))))

    @property
    def capacity(self) -> int:
        return self.blocks * self.block_size

    def sequence(
        self,
        prompt: int,
        max_tokens: int = 4,
        *,
        goal: Goal = Goal.ANSWER,
        media: tuple[Media, ...] = (),
        family: int | None = None,
        **params: Any,
    ) -> Sequence:
        """A new sequence, not added yet; prompts of one family begin alike."""
        self.made += 1
        family = self.made if family is None else family
        return Sequence(
            key=OperationKey(f"{self.made}"),
            token_ids=[token_after(family, position - 1) or 1 for position in range(prompt)],
            prompt_length=prompt,
            params=Sampling.of(SamplingParams(**({"ignore_eos": True} | params)), (EOS,)),
            seed=0,
            limit=min(self.capacity, prompt + max_tokens),
            goal=goal,
            media=media,
        )

    def add(self, prompt: int, max_tokens: int = 4, **options: Any) -> Sequence:
        """A new sequence in the queue."""
        sequence = self.sequence(prompt, max_tokens, **options)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> tuple[StepPlan, list[Emitted]]:
        """Plans, runs and commits one step."""
        plan = self.scheduler.schedule()
        return plan, self.scheduler.commit(plan, self.run(plan))

    def run(self, plan: StepPlan) -> StepResult:
        """Reads the KV before each chunk, then writes the chunk's own, to blocks that nobody else holds."""
        chunks = chunks_of(plan)
        for sequence, start, _ in chunks:
            for position in range(start):
                assert self.written.get(self._slot(sequence, position)) == content(sequence, position)
        held = Counter(block for sequence in self.scheduler.sequences() for block in sequence.blocks)
        for sequence, start, length in chunks:
            for position in range(start, start + length):
                slot = self._slot(sequence, position)
                assert held[slot[0]] == 1
                self.written[slot] = content(sequence, position)
        tokens = [token_after(int(s.key.request_id), len(s.token_ids) - 1) for s in plan.sampling]
        return StepResult(tokens, routes=self._routes(chunks) if chunks and self.routes else None)

    def receive(self, sequence: Sequence) -> None:
        """Writes a whole prompt from outside, as a transfer does, and starts the sequence with its first token."""
        others = {block for s in self.scheduler.sequences() if s is not sequence for block in s.blocks}
        assert others.isdisjoint(sequence.blocks)
        for position in range(sequence.prompt_length):
            self.written[self._slot(sequence, position)] = content(sequence, position)
        sequence.computed = sequence.prompt_length
        number = int(sequence.key.request_id)
        sequence.token_ids.append(token_after(number, sequence.prompt_length - 1))
        self.scheduler.start(sequence.key)

    def answer_is_right(self, sequence: Sequence) -> bool:
        """Whether every token after the prompt is the model's."""
        number = int(sequence.key.request_id)
        places = range(sequence.prompt_length, len(sequence.token_ids))
        return all(sequence.token_ids[place] == token_after(number, place - 1) for place in places)

    def drain(self, limit: int = 10_000) -> list[Emitted]:
        """Steps until nobody has anything to do; ended sequences are released."""
        emitted: list[Emitted] = []
        for _ in range(limit):
            plan, new = self.step()
            emitted += new
            for item in new:
                if item.finish_reason is not None or item.sequence.goal is Goal.FIRST_TOKEN:
                    self.scheduler.release(item.sequence.key)
            self.scheduler.check_integrity()
            if not plan and not self.scheduler.waiting:
                return emitted
        raise AssertionError(f"{self.scheduler.waiting} sequences still wait after {limit} steps")

    def _routes(self, chunks: list[tuple[Sequence, int, int]]) -> npt.NDArray[np.int32]:
        """Of each row of a step."""
        assert self.routes is not None
        return np.concatenate([self.routes(s).repeat(length, axis=1) for s, _, length in chunks], axis=1)

    def _slot(self, sequence: Sequence, position: int) -> tuple[int, int]:
        return sequence.blocks[position // self.block_size], position % self.block_size


def content(sequence: Sequence, position: int) -> Content:
    """What the KV of a token depends on: every token up to it, and what the media among them show."""
    return tuple(sequence.token_ids[: position + 1]), tuple(m.content for m in sequence.media if m.start <= position)


def chunks_of(plan: StepPlan) -> list[tuple[Sequence, int, int]]:
    """Each sequence of a plan, the first of its tokens that runs, and how many do."""
    decodes = [(s, s.computed, 1) for s in plan.decodes]
    return decodes + [(c.sequence, c.start, c.length) for c in plan.prompts]


def token_after(number: int, position: int) -> int:
    """What the model says after `position` tokens of request `number`: 0 (EOS) to 10."""
    return (number * 7 + position) % 11


@pytest.fixture
def bench() -> Callable[..., Bench]:
    return Bench
