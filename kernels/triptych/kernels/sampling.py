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

    The probabilities of the tokens that are left are cumulated in float64 and in the order of the vocabulary. In that
    order logits that differ by rounding, as those of one prompt do between two batches or two devices, move the
    borders between tokens by that little; in descending order they would swap neighbours, and with them the choice.
    What a row draws depends on nothing but its own logits and numbers.

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
            continue
        weights = _weights(row, row.max(), heat)
        kept = weights * (weights >= share)
        if mass < 1.0 or 0 < count < len(row):
            head = _head_of(row, weights, count if count < len(row) else 0, mass)
            kept = torch.zeros_like(kept).index_copy_(0, head, kept[head])
        out[index] = _at(kept, number)


def _head_of(logits: Tensor, weights: Tensor, count: int, mass: float) -> Tensor:
    """Ids of the tokens that top_k and top_p keep, in descending order."""
    ids = _likeliest(logits, count or min(NUCLEUS, len(logits)))
    if mass == 1.0:
        return ids
    total = weights[ids].sum() if count else weights.sum()
    if weights[ids].sum() < mass * total:
        ids = logits.sort(descending=True, stable=True).indices
    mass_before = weights[ids].cumsum(dim=-1) - weights[ids]
    return ids[: max(1, int((mass_before < mass * total).sum()))]


def _likeliest(logits: Tensor, count: int) -> Tensor:
    """Token ids of the largest logits in descending order, of equal ones the first."""
    candidates = (logits >= logits.topk(count).values[-1]).nonzero()[:, 0]
    return candidates[logits[candidates].sort(descending=True, stable=True).indices[:count]]


def _weights(logits: Tensor, peak: Tensor, heat: float) -> Tensor:
    """Probabilities but for their sum, float64; the likeliest has 1, however small the temperature."""
    return logits.double().sub_(peak).div_(heat).exp_()


def _at(weights: Tensor, number: float) -> int:
    """Where the cumulated weights pass this share of their sum: at a weight above 0, however it is rounded."""
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[-1:]
    target = torch.minimum(total * number, total.nextafter(torch.zeros_like(total)))
    return min(int(torch.searchsorted(cumulative, target, right=True)), len(weights) - 1)  # of NaN too
