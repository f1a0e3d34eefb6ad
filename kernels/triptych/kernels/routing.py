"""Which experts a token goes to, and with what weights."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op, require_shape


@dataclass(frozen=True, slots=True)
class Routing:
    """How experts are chosen by the logits of a router.

    Attributes:
        scores: What the logits become: their softmax, or the sigmoid of each.
        renormalise: The weights of a token's experts sum to one, before they are scaled.
        scale: Factor of the weights.
        groups: Equal groups that the experts are in, in their order.
        top_groups: Groups that a token's experts are taken from, by the sum of the two best of each.
    """

    scores: Literal["softmax", "sigmoid"]
    renormalise: bool
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1


@Op
def route(logits: Tensor, correction: Tensor | None, routing: Routing, ids: Tensor, weights: Tensor) -> None:
    """Chooses experts: the largest scores, of equal ones the first (arXiv:1701.06538, arXiv:2412.19437).

    Args:
        logits: [T, E] float32.
        correction: [E] float32, added to the scores for the choice but not for the weights; or None.
        routing: How.
        ids: [T, K] int32, each in [0, E), best first; all different where the logits are finite.
        weights: [T, K] float32, NaN where a logit is.
    """
    require_shape(weights, *ids.shape)
    scores = logits.softmax(-1) if routing.scores == "softmax" else logits.sigmoid()
    choice = scores if correction is None else scores + correction
    if routing.top_groups < routing.groups:
        choice = _in_best_groups(choice, routing)
    chosen = _best(choice, ids.shape[1])
    picked = scores.gather(1, chosen)
    if routing.renormalise:
        picked /= picked.sum(-1, keepdim=True) + 1e-20
    ids.copy_(chosen)
    torch.mul(picked, routing.scale, out=weights)


def _in_best_groups(choice: Tensor, routing: Routing) -> Tensor:
    grouped = choice.reshape(len(choice), routing.groups, choice.shape[1] // routing.groups)
    strength = grouped.topk(min(2, grouped.shape[-1])).values.sum(-1)
    hidden = torch.ones_like(strength, dtype=torch.bool).scatter_(1, _best(strength, routing.top_groups), False)
    return grouped.masked_fill(hidden.unsqueeze(-1), -torch.inf).flatten(1)


def _best(values: Tensor, count: int) -> Tensor:
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :count]
