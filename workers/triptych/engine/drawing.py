"""Choice of a token per row, by its parameters and its number in [0, 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.engine.sampling import Sampling
from triptych.kernels import draw_token


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's parameters and its number in [0, 1)."""

    params: Sampling
    u: float


def draw(logits: Tensor, draws: list[Draw]) -> list[int]:
    """One token id per row, among those that the filters keep; the likeliest for greedy rows.

    What a row draws depends on its logits, its parameters and its number alone, not on the rows beside it.

    Args:
        logits: [len(draws), vocabulary] float32.
        draws: What to draw by, in the order of the logits.
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)

    out = torch.empty(len(draws), dtype=torch.int64, device=logits.device)
    draw_token(
        logits,
        column([row.params.temperature for row in draws]),
        torch.tensor([row.params.top_k for row in draws], dtype=torch.int64, device=logits.device),
        column([row.params.top_p for row in draws]),
        column([row.params.min_p for row in draws]),
        column([row.u for row in draws]),
        out,
    )
    tokens: list[int] = out.tolist()
    return tokens
