"""From logits to tokens.

Each request draws from its own random stream: the uniform number for its n-th token depends on its seed and on n
alone (Philox, a counter-based generator: Salmon et al., SC 2011). So a request gives the same tokens whatever shares
its batch, on whichever worker, and after a replay from any token on.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from triptych.core.generation import PositionLogprobs, TokenLogprob
from triptych.engine.drawing import Draw, draw
from triptych.engine.penalties import Seen, penalise
from triptych.engine.plan import StepResult
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What decides one row's token besides its logits.

    Attributes:
        generated: Tokens of the answer so far.
        seen: What penalties look at; None without them.
    """

    params: Sampling
    seed: int
    generated: int
    seen: Seen | None = None

    @classmethod
    def of(cls, sequence: Sequence) -> Self:
        """The next token of a sequence."""
        params = sequence.params
        seen = Seen.of(sequence.token_ids, sequence.prompt_length) if params.penalised else None
        return cls(params, sequence.seed, sequence.generated, seen)

    @property
    def barred(self) -> frozenset[int]:
        """Tokens that cannot be chosen yet."""
        return self.params.ends if self.generated < self.params.min_tokens else frozenset()

    @property
    def draw(self) -> Draw:
        """Its parameters and its number."""
        return Draw(self.params, 0.0 if self.params.greedy else uniform(self))


def sample(logits: Tensor, rows: list[SamplingRow]) -> StepResult:
    """Chooses one token per row.

    Args:
        logits: [len(rows), vocabulary] float32; overwritten.
        rows: What to choose by, in the order of the logits.
    """
    reports = [_top_logprobs(logits[i], row) for i, row in enumerate(rows)]
    for i, row in enumerate(rows):
        if row.seen is not None:
            penalise(logits[i], row.params, row.seen)
        if barred := row.barred:
            logits[i, list(barred)] = -torch.inf
    chosen = draw(logits, [row.draw for row in rows])
    logprobs = {i: report.of(chosen[i]) for i, report in enumerate(reports) if report}
    return StepResult(chosen, logprobs)


def uniform(row: SamplingRow) -> float:
    """The number in [0, 1) that decides the row's next token."""
    return float(np.random.Generator(np.random.Philox(key=row.seed, counter=row.generated)).random())


@dataclass(frozen=True, slots=True)
class _LogprobReport:
    scores: Tensor
    normaliser: Tensor
    top: tuple[TokenLogprob, ...]

    def of(self, token_id: int) -> PositionLogprobs:
        return PositionLogprobs(float(self.scores[token_id] - self.normaliser), self.top)


def _top_logprobs(logits: Tensor, row: SamplingRow) -> _LogprobReport | None:
    """Log-probabilities of the model itself, before penalties and temperature."""
    if row.params.logprobs is None:
        return None
    scores = logits.clone() if row.seen is not None or row.barred else logits
    normaliser = scores.logsumexp(dim=-1)
    values, ids = scores.topk(min(row.params.logprobs, len(scores)))
    top = zip(ids.tolist(), (values - normaliser).tolist(), strict=True)
    return _LogprobReport(scores, normaliser, tuple(TokenLogprob(i, v) for i, v in top))
