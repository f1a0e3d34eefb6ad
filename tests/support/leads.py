"""Greedy answers up to where rounding could tell otherwise: of the next token, or of the experts that a row takes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from triptych.kernels import Routing, route
from triptych.models import experts
from triptych.models.decoder import Decoder
from triptych.models.testing import PagedSequence

CLEAR_TOKEN, CLEAR_ROUTE = 1e-3, 1e-4
"""Leads, as parts of the largest score."""


def clear_answer(decoder: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens behind a prompt, at most so many; they end where another, or another expert, is near."""
    sequence, answer, token = PagedSequence(decoder), list[int](), prompt[-1]
    with _unclear_routes() as unclear:
        sequence.feed(torch.tensor(prompt[:-1]))
        while len(answer) < count:
            scores = sequence.feed(torch.tensor([token]))[0]
            if unclear or bool(_lead(scores, 1) < CLEAR_TOKEN):
                break
            token = int(scores.argmax())
            answer.append(token)
    return answer


@contextmanager
def _unclear_routes() -> Iterator[list[float]]:
    """Leads of the last expert that a row takes over the next one, where they are small; of softmax routers."""
    found: list[float] = []

    def watched(logits: Tensor, correction: Tensor | None, routing: Routing, ids: Tensor, weights: Tensor) -> None:
        assert routing.scores == "softmax"
        leads = _lead(logits, ids.shape[1])
        found.extend(leads[leads < CLEAR_ROUTE].tolist())
        route(logits, correction, routing, ids, weights)

    with patch.object(experts, "route", watched):
        yield found


def _lead(scores: Tensor, count: int) -> Tensor:
    """Of the first so many scores [..., n] of each row over the others."""
    best = scores.topk(count + 1).values
    return (best[..., count - 1] - best[..., count]) / scores.abs().amax(-1)
