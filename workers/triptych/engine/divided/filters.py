"""Which tokens top_k, top_p and min_p keep, in this order, where the vocabulary is divided."""

import torch
from torch import Tensor

from triptych.engine.divided.ranking import ordered
from triptych.engine.divided.share import VocabularyShare
from triptych.engine.divided.threshold import likeliest
from triptych.engine.sampling import Sampling

GATHERED = 256
"""Up to so many of the likeliest tokens, for top_k, every rank tells its own; beyond, all ranks sum."""


def gathers(params: Sampling) -> bool:
    """Whether what top_k and top_p keep is among the gathered tokens."""
    return 0 < params.top_k <= GATHERED


def wanted(params: Sampling) -> int:
    """How many of the likeliest tokens have to be gathered; the first gives the scale of all probabilities."""
    return 1 if params.greedy or not gathers(params) else params.top_k


def weights_of(logits: Tensor, peaks: Tensor, params: list[Sampling]) -> Tensor:
    """Float64 probabilities but for their sum, as `draw_token` has them: the likeliest has 1.

    Args:
        logits: [R, N] float32.
        peaks: [R], the largest of all ranks.
        params: By row.
    """
    heat = torch.tensor([one.temperature for one in params], dtype=torch.float64, device=logits.device)
    return logits.double().sub_(peaks[:, None]).div_(heat[:, None]).exp_()


def last_kept(best: Tensor, weights: Tensor, params: Sampling) -> Tensor:
    """The key of the last token that top_k and top_p keep.

    Args:
        best: [N] keys of the likeliest tokens, falling; N >= top_k.
        weights: [N] float64.
        params: Of a row that `gathers`.
    """
    some = weights[: params.top_k]
    if params.top_p == 1.0:
        return best[params.top_k - 1]
    kept = (some.cumsum(dim=0) - some < params.top_p * some.sum()).sum().clamp(min=1)
    return best[kept - 1]


def searched(logits: Tensor, weights: Tensor, params: list[Sampling], share: VocabularyShare) -> Tensor:
    """What top_k beyond `GATHERED`, and top_p, keep: [R, V_local] float64, the weights with 0 for the others."""
    numbers = ordered(logits)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)

    if counted := [i for i, one in enumerate(params) if 0 < one.top_k < share.size]:
        ones = torch.ones_like(weights[counted])
        limit = column([float(params[i].top_k) for i in counted])
        weights[counted] *= likeliest(numbers[counted], ones, limit, share)
    if massed := [i for i, one in enumerate(params) if one.top_p < 1.0]:
        some = weights[massed]
        limit = column([params[i].top_p for i in massed]) * share.summed(some.sum(dim=1))
        weights[massed] = some * likeliest(numbers[massed], some, limit, share)
    return weights
