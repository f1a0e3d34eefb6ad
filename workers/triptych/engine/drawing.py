"""Random choice of a token: the inverse of the cumulated probabilities at a number in [0, 1).

What a row draws depends on its logits, its parameters and its number alone, not on the rows beside it. Rows without
top_k and top_p are drawn in the order of the vocabulary, all at once; sorting them would cost more than the model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.sampling import SamplingParams
from triptych.engine.filters import keep_min_p, keep_top_k, keep_top_p

NUCLEUS = 1024
"""So many tokens nearly always hold the mass that top_p asks for."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's parameters and its number in [0, 1)."""

    params: SamplingParams
    u: float

    def sorts(self, vocabulary: int) -> bool:
        """Whether a filter asks for the likeliest tokens."""
        return self.params.top_p < 1.0 or 0 < self.params.top_k < vocabulary


def draw(logits: Tensor, draws: list[Draw]) -> list[int]:
    """One token id per row, among those that the filters keep: top_k, then top_p, then min_p.

    Args:
        logits: [len(draws), vocabulary] float32.
        draws: What to draw by, in the order of the logits.
    """
    sorting = [i for i, row in enumerate(draws) if row.sorts(logits.shape[-1])]
    whole = [i for i, row in enumerate(draws) if not row.sorts(logits.shape[-1])]
    tokens = {i: _draw_likeliest(logits[i], draws[i]) for i in sorting}
    if whole:
        tokens |= zip(whole, _draw_whole(logits[whole], [draws[i] for i in whole]), strict=True)
    return [tokens[i] for i in range(len(draws))]


def _draw_whole(logits: Tensor, draws: list[Draw]) -> list[int]:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    weights = _weights(logits, logits.amax(dim=-1, keepdim=True), column([row.params.temperature for row in draws]))
    if any(row.params.min_p for row in draws):
        weights *= weights >= column([row.params.min_p for row in draws])
    cumulative = weights.cumsum(dim=-1)
    positions = torch.searchsorted(cumulative, column([row.u for row in draws]) * cumulative[:, -1:], right=True)
    tokens: list[int] = positions.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()
    return tokens


def _draw_likeliest(logits: Tensor, row: Draw) -> int:
    params, peak = row.params, logits.max()
    if 0 < params.top_k < len(logits):
        values, ids = keep_top_k(logits, params.top_k)
        weights = _weights(values, peak, params.temperature)
        mass = weights.sum()
    else:
        mass = _weights(logits, peak, params.temperature).sum()
        values, ids = keep_top_k(logits, NUCLEUS)
        weights = _weights(values, peak, params.temperature)
        if weights.sum() < params.top_p * mass:
            values, ids = keep_top_k(logits, 0)
            weights = _weights(values, peak, params.temperature)
    kept = keep_min_p(keep_top_p(weights / mass, params.top_p), params.min_p)
    cumulative = kept.cumsum(dim=-1)
    position = int(torch.searchsorted(cumulative, row.u * float(cumulative[-1]), right=True))
    return int(ids[min(position, len(kept) - 1)])


def _weights(logits: Tensor, peak: Tensor, temperature: Tensor | float) -> Tensor:
    """Probabilities but for their sum, float64; the likeliest has 1, however small the temperature."""
    return logits.double().sub_(peak).div_(temperature).exp_()
