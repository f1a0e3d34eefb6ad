"""Turns a step plan into tensors, runs the model, and samples."""

from itertools import accumulate

import torch
from torch import Tensor

from triptych.engine.plan import Chunk, StepPlan, StepResult
from triptych.engine.sampler import SamplingRow, sample
from triptych.kernels import AttentionBatch, native
from triptych.models.decoder import Decoder
from triptych.models.step import EmbeddingRows, StepInput

FEW_ROWS = 8


class ModelRunner:
    """Runs plans on one decoder and its KV pool.

    A step of few rows is bound by memory. Where there are two threads it is run on one: waking the second for every
    op costs more than it brings, and a thread that spins for its partner on a busy machine costs ten times the step
    (measured: docs/log.md). More threads than that reach what one cannot, and are used.

    Args:
        decoder: The model.
        kv: [layer, block, k|v, kv_head, token, dim].
    """

    def __init__(self, decoder: Decoder, kv: Tensor) -> None:
        self._decoder = decoder
        self._kv = kv
        self._threads = torch.get_num_threads()
        self._few_threads = 1 if self._threads <= native.MAX_THREADS else self._threads
        self._block_size = kv.shape[4]

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Computes the KV of every chunk, and one token for each chunk that ends its sequence."""
        threads = self._few_threads if plan.tokens <= FEW_ROWS else self._threads
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        logits = self._decoder.forward(step_input(plan, self._block_size, self._kv.device), self._kv)
        rows = [
            SamplingRow(s.params, s.seed, s.token_ids, s.prompt_length)
            for s in (chunk.sequence for chunk in plan.chunks if chunk.samples)
        ]
        return StepResult(sample(logits, rows) if rows else ())


def step_input(plan: StepPlan, block_size: int, device: torch.device) -> StepInput:
    """The varlen batch of a plan: chunks one after the other, each a run of rows."""
    chunks = plan.chunks
    starts = [0, *accumulate(chunk.length for chunk in chunks)]
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for chunk in chunks:
        span = range(chunk.start, chunk.start + chunk.length)
        blocks = chunk.sequence.blocks
        token_ids += chunk.sequence.token_ids[span.start : span.stop]
        positions += span
        slots += [blocks[i // block_size] * block_size + i % block_size for i in span]
    return StepInput(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        attention=AttentionBatch(
            query_start=torch.tensor(starts, dtype=torch.int32),
            kv_lengths=torch.tensor([chunk.start + chunk.length for chunk in chunks], dtype=torch.int32),
            block_tables=_block_tables(chunks, block_size),
        ),
        logit_rows=torch.tensor(
            [end - 1 for chunk, end in zip(chunks, starts[1:], strict=True) if chunk.samples],
            dtype=torch.int64,
            device=device,
        ),
        embeddings=tuple(
            rows for chunk, row in zip(chunks, starts[:-1], strict=True) for rows in _embedding_rows(chunk, row)
        ),
    )


def _block_tables(chunks: tuple[Chunk, ...], block_size: int) -> Tensor:
    used = [-(-(chunk.start + chunk.length) // block_size) for chunk in chunks]
    width = max(used)
    tables = [chunk.sequence.blocks[:n] + [0] * (width - n) for chunk, n in zip(chunks, used, strict=True)]
    return torch.tensor(tables, dtype=torch.int32)


def _embedding_rows(chunk: Chunk, row: int) -> list[EmbeddingRows]:
    """The part of each media span that falls into the chunk, which begins at batch row `row`."""
    found = []
    for media in chunk.sequence.media:
        start = max(media.start, chunk.start)
        stop = min(media.start + media.length, chunk.start + chunk.length)
        if start < stop:
            assert media.values is not None, "a sequence without its embeddings was scheduled for prefill"
            found.append(
                EmbeddingRows(row + start - chunk.start, media.values[start - media.start : stop - media.start])
            )
    return found
