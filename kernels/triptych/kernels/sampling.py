"""Choice of a token from logits."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op

NUCLEUS = 1024
"""So many tokens nearly always hold the mass that top_p asks for."""


@Op
def draw_token(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, u: Tensor, out: Tensor
) -> None:
    """Draws a token per row: the inverse of the cumulated probabilities at a number in [0, 1).

    The filters apply in the order of the arguments; each keeps the head of the tokens in descending order, of which
    equal ones come in the order of the vocabulary:

        top_k   so many tokens
        top_p   the shortest head whose probability reaches it (nucleus sampling, arXiv:1904.09751)
        min_p   the tokens that have at least this share of the likeliest one's probability (arXiv:2407.01082)

    Probabilities are cumulated in float64: in descending order, or in the order of the vocabulary for rows without
    top_k and top_p, which need no order. What a row draws depends on nothing but its own logits and numbers.

    Args:
        logits: [T, V] float32.
        temperature: [T] float64, divides the logits; 0 takes the likeliest token.
        top_k: [T] int64; 0 keeps all.
        top_p: [T] float64 in (0, 1]; 1 keeps all.
        min_p: [T] float64 in [0, 1]; 0 keeps all.
        u: [T] float64 in [0, 1).
        out: [T] int64, the tokens.
    """
    rows = zip(temperature.tolist(), top_k.tolist(), top_p.tolist(), min_p.tolist(), u.tolist(), strict=True)
    for index, (heat, count, mass, share, number) in enumerate(rows):
        row = logits[index]
        if heat == 0.0:
            out[index] = row.argmax()
        elif mass < 1.0 or 0 < count < len(row):
            out[index] = _draw_likeliest(row, heat, count if count < len(row) else 0, mass, share, number)
        else:
            weights = _weights(row, row.max(), heat)
            weights *= weights >= share
            out[index] = _at(weights, number)


def _draw_likeliest(logits: Tensor, heat: float, count: int, mass: float, share: float, number: float) -> int:
    peak = logits.max()
    ids = _head(logits, count or min(NUCLEUS, len(logits)))
    weights = _weights(logits[ids], peak, heat)
    total = weights.sum() if count else _weights(logits, peak, heat).sum()
    if not count and weights.sum() < mass * total:
        ids = logits.sort(descending=True, stable=True).indices
        weights = _weights(logits[ids], peak, heat)
    if mass < 1.0:
        mass_before = weights.cumsum(dim=-1) - weights
        weights = weights[: max(1, int((mass_before < mass * total).sum()))]
    weights = weights[: max(1, int((weights >= share).sum()))]
    return int(ids[_at(weights, number)])


def _head(logits: Tensor, count: int) -> Tensor:
    """Token ids of the largest logits in descending order, of equal ones the first."""
    candidates = (logits >= logits.topk(count).values[-1]).nonzero()[:, 0]
    return candidates[logits[candidates].sort(descending=True, stable=True).indices[:count]]


def _weights(logits: Tensor, peak: Tensor, heat: float) -> Tensor:
    """Probabilities but for their sum, float64; the likeliest has 1, however small the temperature."""
    return logits.double().sub_(peak).div_(heat).exp_()


def _at(weights: Tensor, number: float) -> int:
    """Where the cumulated weights pass this share of their sum."""
    cumulative = weights.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, cumulative[-1:] * number, right=True)
    return int(place.clamp(max=len(weights) - 1))
