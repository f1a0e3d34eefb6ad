"""Tokens that are a matter of rounding: which rows of an engine's steps draw one.

The sums of a step depend on how many rows it has, in the last bits of a float32, and no two askings have the same
steps. Of some hundred random tokens one may lie that near to another, or to the border of what is drawn: nobody's
mistake, and not asked. That two askings agree does not show it, as the third may not; the room around a token does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from triptych.engine import runner
from triptych.engine.drawing import Draw, draw
from triptych.engine.penalties import penalise
from triptych.engine.plan import StepResult
from triptych.engine.sampler import SamplingRow, sample

SCORE_NOISE = 1e-3
"""Of a logit. Between sixteen rows and one, 1.5e-4 was the most that was seen in 650 rows."""
BORDER_NOISE = 1e-5
"""Of the random number and of top_p. The borders of a row moved by at most 4e-7 in the median row, 5.6e-6 in any."""


@contextmanager
def doubtful_rows() -> Iterator[set[int]]:
    """Seeds of the rows that had a doubtful token while the context was open, in any engine of this process.

    Of a greedy row without log-probabilities no score is looked at.
    """
    found: set[int] = set()

    def watched(logits: Tensor, rows: list[SamplingRow]) -> StepResult:
        found.update(row.seed for scores, row in zip(logits, rows, strict=True) if in_doubt(scores, row))
        return sample(logits, rows)

    with patch.object(runner, "sample", watched):
        yield found


def in_doubt(scores: Tensor, row: SamplingRow) -> bool:
    """Whether a little noise may make another token of these logits [vocabulary]."""
    scores = _judged(scores, row)
    if row.params.greedy:
        first, second = scores.topk(2).values.tolist()
        return bool(first - second < SCORE_NOISE)
    given, noise = row.draw, (-BORDER_NOISE, BORDER_NOISE)
    shares = [min(given.params.top_p + more, 1.0) for more in noise]
    numbers = [min(max(given.u + more, 0.0), 1.0 - 1e-9) for more in noise]
    around = [Draw(replace(given.params, top_p=share), u) for share, u in product(shares, numbers)]
    return len(set(draw(scores.repeat(len(around), 1), around))) > 1


def _judged(scores: Tensor, row: SamplingRow) -> Tensor:
    """What the token is drawn by."""
    scores = scores.clone()
    if row.seen is not None:
        penalise(scores, row.params, row.seen)
    if barred := row.barred:
        scores[list(barred)] = -torch.inf
    return scores
