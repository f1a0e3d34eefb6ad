"""From logits to tokens.

Each request draws from its own random stream: the uniform number for its n-th token depends on its seed and on n
alone (Philox, a counter-based generator: Salmon et al., SC 2011). So a request gives the same tokens whatever shares
its batch, on whichever worker, and after a replay from any token on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triptych.core.generation import PositionLogprobs, TokenLogprob
from triptych.core.sampling import SamplingParams
from triptych.engine.drawing import Draw, draw
from triptych.engine.filters import penalise
from triptych.engine.plan import StepResult


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What decides one row's token besides its logits.

    Attributes:
        token_ids: Prompt and answer so far.
        prompt_length: How many of them are the prompt.
    """

    params: SamplingParams
    seed: int
    token_ids: list[int]
    prompt_length: int


def sample(logits: Tensor, rows: list[SamplingRow]) -> StepResult:
    """Chooses one token per row.

    Args:
        logits: [len(rows), vocabulary] float32; overwritten.
        rows: What to choose by, in the order of the logits.
    """
    reports = [_top_logprobs(logits[i], row.params.logprobs) for i, row in enumerate(rows)]
    for i, row in enumerate(rows):
        if row.params.penalised:
            penalise(logits[i], row.params, row.token_ids, row.prompt_length)
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    random = [i for i, row in enumerate(rows) if not row.params.greedy]
    drawn = draw(logits[random], [Draw(rows[i].params, uniform(rows[i])) for i in random])
    for i, token in zip(random, drawn, strict=True):
        chosen[i] = token
    logprobs = {i: report.of(chosen[i]) for i, report in enumerate(reports) if report}
    return StepResult(chosen, logprobs)


def uniform(row: SamplingRow) -> float:
    """The number in [0, 1) that decides the row's next token."""
    position = len(row.token_ids) - row.prompt_length
    return float(np.random.Generator(np.random.Philox(key=row.seed, counter=position)).random())


@dataclass(frozen=True, slots=True)
class _LogprobReport:
    logprobs: Tensor
    top: tuple[TokenLogprob, ...]

    def of(self, token_id: int) -> PositionLogprobs:
        return PositionLogprobs(float(self.logprobs[token_id]), self.top)


def _top_logprobs(logits: Tensor, count: int | None) -> _LogprobReport | None:
    """Log-probabilities of the model itself, before penalties and temperature."""
    if count is None:
        return None
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    top = tuple(TokenLogprob(i, v) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
    return _LogprobReport(logprobs, top)
