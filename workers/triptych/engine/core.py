"""The engine without its model's text: sequences in, tokens out, one step at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from triptych.core.errors import FailedPrecondition
from triptych.engine.batch_table import BatchTable
from triptych.engine.blocks import blocks_for
from triptych.engine.kv_cache import KvCache
from triptych.engine.loop import StepLoop, StepOutcome
from triptych.engine.runner import ModelRunner
from triptych.engine.scheduler import Scheduler, SchedulerOptions
from triptych.models.decoder import Decoder


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
        self.eos_token_ids = eos_token_ids
        self.kv = kv
        self.capacity = min(context_length, blocks * block_size)
        cache = KvCache(blocks, block_size, prefix_caching=options.prefix_caching)
        self.scheduler = Scheduler(cache, options, whole_images=decoder.spec.whole_images)
        table = BatchTable(
            options.max_batch_tokens,
            options.max_running,
            blocks_for(self.capacity, block_size),
            block_size,
            decoder.device,
            whole_images=decoder.spec.whole_images,
            adapters=decoder.adapters,
        )
        self.runner = ModelRunner(decoder, kv, table)
        self._loop = StepLoop(self.scheduler, self.runner)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._loop.steps

    @property
    def computed_tokens(self) -> int:
        """Rows of all steps so far."""
        return self._loop.computed_tokens

    def limit(self, prompt_length: int, max_tokens: int | None) -> int:
        """The length at which a sequence ends."""
        return min(self.capacity, prompt_length + max_tokens) if max_tokens else self.capacity

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> StepOutcome | None:
        """Runs one step; None when there is nothing to compute. See `StepLoop.step`."""
        return self._loop.step(meanwhile)


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
