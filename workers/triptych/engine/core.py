"""The engine without its model's text: sequences in, tokens out, one step at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import FailedPrecondition
from triptych.engine.blocks import BlockPool
from triptych.engine.plan import StepPlan
from triptych.engine.runner import ModelRunner
from triptych.engine.scheduler import Emitted, Scheduler, SchedulerOptions
from triptych.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step did."""

    plan: StepPlan
    emitted: tuple[Emitted, ...]


class StepFailed(Exception):
    """The computation of a step raised; the sequences of `plan` are as they were before it."""

    def __init__(self, plan: StepPlan) -> None:
        super().__init__(f"a step of {plan.tokens} tokens failed")
        self.plan = plan


class EngineCore:
    """A decoder, its KV pool and the scheduler over both. One thread drives it.

    Args:
        decoder: The model.
        kv: [layer, block, k|v, kv_head, token, dim]; the caller owns the memory.
        eos_token_ids: Tokens that end an answer.
        context_length: Upper bound of prompt and answer together.
        options: Limits of one step.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv: Tensor,
        eos_token_ids: tuple[int, ...],
        context_length: int,
        options: SchedulerOptions,
    ) -> None:
        blocks, block_size = kv.shape[1], kv.shape[4]
        self.decoder = decoder
        self.kv = kv
        self.capacity = min(context_length, blocks * block_size)
        self.scheduler = Scheduler(BlockPool(blocks), block_size, eos_token_ids, options)
        self.steps = 0
        self.computed_tokens = 0
        self._runner = ModelRunner(decoder, kv)

    def limit(self, prompt_length: int, max_tokens: int | None) -> int:
        """The length at which a sequence ends."""
        return min(self.capacity, prompt_length + max_tokens) if max_tokens else self.capacity

    def step(self) -> StepOutcome | None:
        """Runs one step; None when there is nothing to compute.

        Raises:
            StepFailed: with the plan, from the error of the computation.
        """
        plan = self.scheduler.schedule()
        if not plan.chunks:
            return None
        try:
            result = self._runner.execute(plan)
        except Exception as error:
            raise StepFailed(plan) from error
        self.steps += 1
        self.computed_tokens += plan.tokens
        return StepOutcome(plan, tuple(self.scheduler.commit(plan, result)))


def kv_blocks(decoder: Decoder, block_size: int, dtype: torch.dtype, memory: int) -> int:
    """How many blocks fit `memory` bytes.

    Raises:
        FailedPrecondition: not even one does.
    """
    elements = 1
    for size in decoder.kv_shape(1, block_size):
        elements *= size
    block_bytes = elements * dtype.itemsize
    if memory < block_bytes:
        raise FailedPrecondition(
            f"kv_cache.memory must hold at least one block of {block_bytes} bytes, got {memory}",
            field="kv_cache.memory",
        )
    return memory // block_bytes
