"""Runs step plans through the model and samples."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from triptych.engine.batch_table import BatchTable
from triptych.engine.plan import NoFiniteScore, StepPlan, StepResult
from triptych.engine.reading import until_read
from triptych.engine.replay import RecordedStep, StepRecorder
from triptych.engine.sampler import SamplingRow, sample
from triptych.engine.sequence import Sequence
from triptych.experts.taken import TakenExperts
from triptych.kernels.native.team import Program
from triptych.models.decoder import Decoder
from triptych.models.head import Likeliest, Logits
from triptych.models.step import StepInput


class ModelRunner:
    """Runs plans on one decoder and its KV pool.

    A step is launched as recorded kernel calls, which the thread team computes while the caller does something else
    (`replay`). A step that cannot be recorded is computed call by call when it is waited for.

    Args:
        decoder: The model.
        kv: [layer, block, k|v, kv_head, token, dim].
        table: The tensors of its steps.
    """

    def __init__(self, decoder: Decoder, kv: Tensor, table: BatchTable) -> None:
        self._decoder = decoder
        self._kv = kv
        self._table = table
        self._recorder = StepRecorder(decoder, kv, table.sequences)
        decoder.reserve(table.rows)

    @property
    def balancer(self) -> None:
        """See `Runner.balancer`."""

    @property
    def taken(self) -> TakenExperts | None:
        """The experts that the rows of each step took; None where no step is made by them."""
        return self._decoder.taken

    def launch(self, plan: StepPlan) -> "LaunchedStep":
        """Starts to compute the KV of every row, and one token for each sequence that the rows bring to its end."""
        step = self._table.fill(plan)
        sampling = plan.sampling
        greedy = all(s.params.plain for s in sampling)
        record = self._recorder.once if plan.prompts else self._recorder.decode
        recorded = record(step, greedy=greedy)
        if recorded is not None:
            recorded.program.launch()
        return LaunchedStep(self, sampling, step, recorded)

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """Works out the rows of a step that runs one more token of each of these sequences."""
        self._table.foresee(sequences)

    def idle(self) -> None:
        """See `Runner.idle`."""

    def compute(self, step: StepInput) -> Tensor:
        """Runs a step call by call; returns its logits.

        Raises:
            Unavailable: see `until_read`.
        """
        logits = self._decoder.forward(step, self._kv)
        if self._decoder.residency is not None:
            until_read(self._decoder.residency, lambda: logits.copy_(self._decoder.forward(step, self._kv)))
        return logits

    def finish(self, program: Program) -> None:
        """Computes with the others until a launched step is done.

        Raises:
            Unavailable: see `until_read`.
        """
        program.join()
        until_read(self._decoder.residency, program.run)


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that computes."""

    _runner: ModelRunner
    _sampling: tuple[Sequence, ...]
    _step: StepInput
    _recorded: RecordedStep | None

    @torch.inference_mode()
    def wait(self) -> StepResult:
        """Computes with the others until it is done; then chooses the tokens.

        Raises:
            NoFiniteScore: the model broke down on some of the sequences.
            Unavailable: experts could not be read.
        """
        result = self._result()
        taken = self._runner.taken
        return result if taken is None else replace(result, routes=taken.last())

    def _result(self) -> StepResult:
        if self._recorded is None:
            return self._sampled(self._runner.compute(self._step))
        self._runner.finish(self._recorded.program)
        match self._recorded.head:
            case None:
                return StepResult()
            case Likeliest(token_ids, values):
                self._require_finite(values.tolist())
                return StepResult(token_ids.tolist())
            case Logits(values):
                return self._sampled(values)

    def _sampled(self, logits: Tensor) -> StepResult:
        rows = [SamplingRow.of(sequence) for sequence in self._sampling]
        if not rows:
            return StepResult()
        self._require_finite(logits.amax(dim=-1).tolist())
        return sample(logits, rows)

    def _require_finite(self, largest: Iterable[float]) -> None:
        """Without this a row of NaN would yield token 0, again and again."""
        broken = tuple(s for s, score in zip(self._sampling, largest, strict=True) if not isfinite(score))
        if broken:
            raise NoFiniteScore(broken)
