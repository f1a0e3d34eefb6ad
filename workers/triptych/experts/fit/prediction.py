"""Tokens per second of one request, before anything is served."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from triptych.experts.pool import LayerNeed, Pool

_USUAL: Final = ((0.0, 0.0), (0.08, 0.20), (0.22, 0.52), (0.47, 0.87), (0.72, 0.987), (0.87, 0.9986), (1.0, 1.0))
"""Share of experts that layers keep, and share of the demand that is there: `lfu-decay` on the traces of
builtin:smollm2-moe (32 experts, 12 of them a token) that writes English text and code."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a step of one row reads, in bytes: `weights` from memory, and `experts` from disk where none is there."""

    weights: float
    experts: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes per second that are read from `memory`, and from `disk`."""

    memory: float
    disk: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What to expect.

    Attributes:
        tokens_per_second: Of one request, at most, where the share of hits is as given.
        bound: What limits it.
    """

    tokens_per_second: float
    bound: Literal["memory", "disk"]


def predict(work: Work, speeds: Speeds, hit_ratio: float) -> Prediction:
    """Reading misses and computing overlap: the slower of them is the time of a token."""
    computing, reading = work.weights / speeds.memory, (1 - hit_ratio) * work.experts / speeds.disk
    return Prediction(1 / max(computing, reading), "disk" if reading > computing else "memory")


def expected_hits(pool: Pool, layers: Sequence[LayerNeed]) -> float:
    """Share of the demand that will be there.

    Where earlier runs have counted uses: that of the experts used most, as many as each layer keeps; `lfu-decay` was
    within two points of it on other texts. Where not: as `_USUAL` has it.
    """
    demand = sum(map(sum, (layer.uses for layer in layers)))
    if demand:
        kept = (
            sorted(layer.uses)[-quota:] if quota else () for layer, quota in zip(layers, pool.quotas, strict=True)
        )
        return sum(map(sum, kept)) / demand
    return _usual(sum(pool.quotas) / sum(layer.experts for layer in layers))


def _usual(share: float) -> float:
    place = min(bisect_right(_USUAL, (share, 1.0)), len(_USUAL) - 1)
    (low, below), (high, above) = _USUAL[place - 1 : place + 1]
    return below + (above - below) * (share - low) / (high - low)
