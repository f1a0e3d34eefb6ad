"""Has an engine write down which experts its steps ask for."""

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.core.generation import OperationKey
from triptych.core.sampling import SamplingParams
from triptych.engine.batch_table import BatchTable
from triptych.engine.engine import Engine
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.prompts import PromptLike
from triptych.engine.reading import until_read
from triptych.engine.runner import ModelRunner
from triptych.engine.sampler import SamplingRow, sample
from triptych.engine.sequence import Sequence
from triptych.experts.traces import Foreseen, RouteLog, Routes
from triptych.models.decoder import Decoder
from triptych.models.route_tap import embedded, tapped, traced_model
from triptych.models.step import StepInput

_BEYOND: Final = 8
"""Experts besides its own number that the next router's choice is written down of: no predictor asks for more."""


def record(engine: Engine, name: str, prompts: list[PromptLike], params: Sequence_[SamplingParams]) -> Routes:
    """Completes prompts, and returns the routes of all steps. They run call by call: slower, and to the same tokens.

    Args:
        engine: Of one rank; as it was afterwards.
        name: Of its model.
        prompts: To be completed in one batch.
        params: Of each.

    Raises:
        InvalidArgument: the model has no experts.
        Unimplemented: ranks divide them.
    """
    core = engine.core
    decoder = core.decoder
    log = RouteLog(traced_model(name, decoder))
    seen = SeenRoutes(log.model.top_k + _BEYOND)
    core.recover(tapped(decoder, seen), partial(RecordingRunner, seen, log))
    try:
        engine.generate(prompts, params)
    finally:
        core.recover(decoder, ModelRunner)
    tokens = log.tokens
    return log.routes(embedded(decoder, torch.from_numpy(tokens.astype(np.int64))).float().cpu().numpy())


class SeenRoutes:
    """The routes of one step.

    Args:
        candidates: Experts of the next router's choice that are kept.
    """

    def __init__(self, candidates: int) -> None:
        self._candidates = candidates
        self._ids: list[npt.NDArray[np.int32]] = []
        self._foreseen: list[Foreseen] = []

    def layer(self, ids: Tensor, foreseen: Tensor | None) -> None:
        """See `triptych.models.route_tap.Watch`."""
        self._ids.append(ids.cpu().numpy().copy())
        if foreseen is not None:
            chances = foreseen.softmax(-1)
            best = chances.sort(dim=-1, descending=True, stable=True)
            kept = slice(min(self._candidates, chances.shape[1]))
            self._foreseen.append(
                Foreseen(best.indices[:, kept].cpu().numpy(), best.values[:, kept].half().cpu().numpy())
            )

    def taken(self) -> tuple[npt.NDArray[np.int32], Foreseen]:
        """[L, T, K] and [L − 1, T, C]; from here on the next step's are seen."""
        ids, self._ids = np.stack(self._ids), []
        foreseen, self._foreseen = self._foreseen, []
        shape = (len(foreseen), ids.shape[1], -1 if foreseen else 0)
        return ids, Foreseen(
            np.array([f.experts for f in foreseen], np.int32).reshape(shape),
            np.array([f.chances for f in foreseen], np.float16).reshape(shape),
        )


class RecordingRunner:
    """Runs plans call by call, and writes their routes down.

    Args:
        seen: What the decoder's mixtures tell.
        log: Of the steps.
        decoder: The model.
        kv: Its pool.
        table: The tensors of its steps.
    """

    def __init__(self, seen: SeenRoutes, log: RouteLog, decoder: Decoder, kv: Tensor, table: BatchTable) -> None:
        self._seen = seen
        self._log = log
        self._decoder = decoder
        self._kv = kv
        self._table = table
        self._numbers: dict[OperationKey, int] = {}

    @property
    def balancer(self) -> None:
        """See `Runner.balancer`."""

    def launch(self, plan: StepPlan) -> "RecordedRoutes":
        """See `Runner.launch`."""
        return RecordedRoutes(self, plan, self._table.fill(plan))

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """See `Runner.foresee`."""
        self._table.foresee(sequences)

    def idle(self) -> None:
        """See `Runner.idle`."""

    def compute(self, plan: StepPlan, step: StepInput) -> Tensor:
        """Runs a step, and returns its logits.

        Raises:
            Unavailable: experts could not be read.
        """
        logits = self._decoder.forward(step, self._kv)
        if self._decoder.residency is not None:
            until_read(self._decoder.residency, lambda: logits.copy_(self._again(step)))
        lengths = [1] * len(plan.decodes) + [chunk.length for chunk in plan.prompts]
        numbers = [self._numbers.setdefault(s.key, len(self._numbers)) for s in plan.sequences]
        self._log.add(
            step.token_ids.cpu().numpy().astype(np.int32),
            np.repeat(np.array(numbers, np.int32), lengths),
            step.positions.cpu().numpy().astype(np.int32),
            *self._seen.taken(),
        )
        return logits

    def _again(self, step: StepInput) -> Tensor:
        self._seen.taken()
        return self._decoder.forward(step, self._kv)


@dataclass(frozen=True, slots=True)
class RecordedRoutes:
    """A step that computes when it is waited for."""

    _runner: RecordingRunner
    _plan: StepPlan
    _step: StepInput

    @torch.inference_mode()
    def wait(self) -> StepResult:
        """See `Pending.wait`."""
        logits = self._runner.compute(self._plan, self._step)
        rows = [SamplingRow.of(sequence) for sequence in self._plan.sampling]
        return sample(logits, rows) if rows else StepResult()
