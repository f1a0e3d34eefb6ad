"""The engine without its model's text: sequences in, tokens out, one step at a time."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from triptych.core.errors import FailedPrecondition
from triptych.engine.balance import Balancer
from triptych.engine.batch_table import BatchTable
from triptych.engine.blocks import blocks_for
from triptych.engine.kv_cache import KvCache
from triptych.engine.lanes import Lanes
from triptych.engine.loading import kv_elements_of_rank
from triptych.engine.loop import Runner, StepLoop, StepOutcome
from triptych.engine.runner import ModelRunner
from triptych.engine.scheduler import Scheduler, SchedulerOptions
from triptych.engine.turns import Turns
from triptych.models.decoder import Decoder

MakeRunner: TypeAlias = Callable[[Decoder, Tensor, BatchTable], Runner]


class EngineCore:
    """A decoder, its KV pool and the scheduler over both. One thread drives it.

    Args:
        decoder: The model.
        kv: [layer, block, k|v, kv_head, token, dim], of this rank; the caller owns the memory.
        eos_token_ids: Tokens that end an answer.
        context_length: Upper bound of prompt and answer together.
        options: Limits of one step.
        runner: Makes what computes the steps, of the decoder, the pool, and the tensors of the steps.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv: Tensor,
        eos_token_ids: tuple[int, ...],
        context_length: int,
        options: SchedulerOptions,
        runner: MakeRunner = ModelRunner,
    ) -> None:
        blocks, block_size = kv.shape[1], kv.shape[4]
        self.decoder = decoder
        self.eos_token_ids = eos_token_ids
        self.kv = kv
        self.capacity = min(context_length, blocks * block_size)
        self.scheduler = _scheduler(decoder, blocks, block_size, options)
        self.runner = runner(decoder, kv, self._table())
        self._loop = StepLoop(self.scheduler, self.runner)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._loop.steps

    @property
    def computed_tokens(self) -> int:
        """Rows of all steps so far."""
        return self._loop.computed_tokens

    @property
    def balancer(self) -> Balancer | None:
        """Has experts moved among ranks; None where there are none to move."""
        return self.runner.balancer

    def limit(self, prompt_length: int, max_tokens: int | None) -> int:
        """The length at which a sequence ends."""
        return min(self.capacity, prompt_length + max_tokens) if max_tokens else self.capacity

    def recover(self, decoder: Decoder, runner: MakeRunner) -> None:
        """Goes on with another runner, to which nothing is known: what is running is computed again from its tokens.

        Args:
            decoder: The same model.
            runner: See above.
        """
        self.decoder = decoder
        self.scheduler.forget()
        self.runner = runner(decoder, self.kv, self._table())
        self._loop.runner = self.runner

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> StepOutcome | None:
        """Runs one step; None when there is nothing to compute. See `StepLoop.step`."""
        return self._loop.step(meanwhile)

    def _table(self) -> BatchTable:
        options, block_size = self.scheduler.options, self.scheduler.block_size
        return BatchTable(
            options.max_batch_tokens,
            options.max_running,
            blocks_for(self.capacity, block_size),
            block_size,
            self.decoder.device,
            whole_images=self.decoder.spec.whole_images,
            adapters=self.decoder.adapters,
        )


def _scheduler(decoder: Decoder, blocks: int, block_size: int, options: SchedulerOptions) -> Scheduler | Lanes:
    def lane(first: int) -> Scheduler:
        cache = KvCache(blocks, block_size, prefix_caching=options.prefix_caching, first=first)
        turns = None if taken is None else Turns(taken.room, taken.experts)
        return Scheduler(cache, options, whole_images=decoder.spec.whole_images, turns=turns)

    taken, lanes = decoder.taken, decoder.mesh.parallelism.lanes
    return lane(0) if lanes == 1 else Lanes(tuple(lane(place * blocks) for place in range(lanes)))


def kv_blocks(decoder: Decoder, block_size: int, dtype: torch.dtype, memory: int) -> int:
    """How many blocks fit `memory` bytes on every rank; the pools of all ranks are as long as the shortest.

    Raises:
        FailedPrecondition: not even one does.
    """
    block_bytes = kv_elements_of_rank(decoder.spec, decoder.mesh.parallelism) * block_size * dtype.itemsize
    if memory < block_bytes:
        raise FailedPrecondition(
            f"kv_cache.memory must hold at least one block of {block_bytes} bytes, got {memory}",
            field="kv_cache.memory",
        )
    return memory // block_bytes
