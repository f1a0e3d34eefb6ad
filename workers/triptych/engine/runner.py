"""Runs step plans through the model and samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.engine.batch_table import BatchTable
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.sampler import SamplingRow, sample
from triptych.engine.sequence import Sequence
from triptych.kernels import native
from triptych.models.decoder import Decoder
from triptych.models.step import StepInput

FEW_ROWS = 8


class ModelRunner:
    """Runs plans on one decoder and its KV pool.

    A step of few rows is bound by memory. Where there are two threads it is run on one: waking the second for every
    op costs more than it brings, and a thread that spins for its partner on a busy machine costs ten times the step
    (measured: docs/log.md). More threads than that reach what one cannot, and are used.

    Args:
        decoder: The model.
        kv: [layer, block, k|v, kv_head, token, dim].
        table: The tensors of its steps.
    """

    def __init__(self, decoder: Decoder, kv: Tensor, table: BatchTable) -> None:
        self._decoder = decoder
        self._kv = kv
        self._table = table
        self._threads = torch.get_num_threads()
        self._few_threads = 1 if self._threads <= native.MAX_THREADS else self._threads

    def launch(self, plan: StepPlan) -> "LaunchedStep":
        """Takes the plan's rows down; they are computed when they are waited for."""
        return LaunchedStep(self, plan, self._table.fill(plan))

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """Works out the rows of a step that runs one more token of each of these sequences."""
        self._table.foresee(sequences)

    @torch.inference_mode()
    def execute(self, plan: StepPlan, step: StepInput) -> StepResult:
        """Computes the KV of every row, and one token for each sequence that the rows bring to its end."""
        threads = self._few_threads if plan.tokens <= FEW_ROWS else self._threads
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        logits = self._decoder.forward(step, self._kv)
        rows = [SamplingRow(s.params, s.seed, s.token_ids, s.prompt_length) for s in plan.sampling]
        return sample(logits, rows) if rows else StepResult()


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step whose rows are written down."""

    _runner: ModelRunner
    _plan: StepPlan
    _step: StepInput

    def wait(self) -> StepResult:
        """Computes it."""
        return self._runner.execute(self._plan, self._step)
