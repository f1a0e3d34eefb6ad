"""Markov-Zipf routing: what a token's code is, and what routers make of it.

A router's score of expert e at token t is w_e · c(t) − z ln(rank of e), with w_e normal and c(t) a step of an
autoregressive walk: an expert's score is then a Gaussian Markov chain around a mean that falls as in Zipf's law.
Stickiness and z are such that three figures are those of `builtin:smollm2-moe` on text (596 tokens of four texts, 30
layers, 12 of 32 experts): a token shares 0.73 of its experts with the one before and 0.69 with that 32 places before,
and popularity falls with the power 1.1 of its rank, over twice as many ranks as a token takes experts.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from triptych.models.synthetic.shape import CODE

STICKINESS: Final = 0.25
ZIPF: Final = 1.9


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """Codes of tokens, [V, 64] of length 1, float32."""

    codes: Tensor

    @classmethod
    def draw(cls, vocabulary: int, random: torch.Generator) -> "Walk":
        """One step per token: c(t + 1) = rho c(t) + sqrt(1 − rho²) noise, then scaled."""
        steps = torch.randn(vocabulary, CODE, generator=random)
        fresh = (1 - STICKINESS**2) ** 0.5
        for t in range(1, vocabulary):
            steps[t] = STICKINESS * steps[t - 1] + fresh * steps[t]
        return cls(steps / steps.norm(dim=1, keepdim=True))


def draw_router(experts: int, random: torch.Generator) -> Tensor:
    """Rows [E, 65] of a layer's router on a code and a constant 1; which expert is popular differs among layers."""
    ranks = 1 + torch.randperm(experts, generator=random)
    popularity = -ZIPF * ranks.float().log()
    return torch.cat((torch.randn(experts, CODE, generator=random), popularity.unsqueeze(1)), dim=1)
