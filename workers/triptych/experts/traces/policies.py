"""Who keeps a slot, as replay has it: with the numbers that serving has settled on, or others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from triptych.experts.cache import DecayedUses, Fixed, LastUse, Scores


@dataclass(frozen=True, slots=True)
class Lru:
    """Who was asked for last."""


@dataclass(frozen=True, slots=True)
class LfuDecay:
    """Who was asked for most, of late more than long ago."""

    decay: float = DecayedUses([]).decay


@dataclass(frozen=True, slots=True)
class StaticHot:
    """Who was in most demand before; `uses` by layer and expert."""

    uses: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Ring:
    """Nobody: while a layer computes, all experts of the next are read (SE-MoE, arXiv:2205.10034)."""


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Nobody: whoever is asked for is read."""


Policy = Lru | LfuDecay | StaticHot | Ring | OnDemand


def scores(policy: Policy, layers: int, experts: int) -> list[Scores]:
    """Of every layer."""
    match policy:
        case LfuDecay(decay):
            return [DecayedUses([0.0] * experts, decay) for _ in range(layers)]
        case StaticHot(uses):
            return [Fixed(list(layer)) for layer in uses]
        case Lru() | Ring() | OnDemand():
            return [LastUse([0.0] * experts) for _ in range(layers)]
        case _:
            assert_never(policy)
