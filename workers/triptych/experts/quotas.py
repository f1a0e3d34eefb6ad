"""How many experts each layer keeps: slots divided among layers, one after the other."""

import heapq
from collections.abc import Callable, Sequence

SLOPE = 0.2
"""Of `shallow`: on the traces of the built-in mixture, of 0 to 0.5 the one that leaves fewest reads to wait for."""


def uniform(slots: int, experts: Sequence[int]) -> tuple[int, ...]:
    """The same share of its experts for every layer.

    Args:
        slots: To be divided.
        experts: Of each layer, E.

    Returns:
        By layer, in [0, E]; together `slots`, or all experts where there are more slots than those.
    """
    return _divided(slots, experts, lambda layer, given: experts[layer] / (2 * given + 1))


def shallow(slots: int, experts: Sequence[int], slope: float = SLOPE) -> tuple[int, ...]:
    """More for the layers that come first (Fate, arXiv:2502.12224): what they miss has the least time to be read in.

    Args:
        slots: To be divided.
        experts: Of each layer, E.
        slope: How much more than the mean the first layer has, and how much less the last; in [0, 1).

    Returns:
        As `uniform`.
    """
    last = max(len(experts) - 1, 1)

    def worth(layer: int, given: int) -> float:
        return experts[layer] * (1 + slope * (1 - 2 * layer / last)) / (2 * given + 1)

    return _divided(slots, experts, worth)


def measured(slots: int, uses: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Each slot to the layer where it adds most hits: where it keeps the most used of the experts that have none.

    Layers of a step are asked equally often, so uses of different layers compare.

    Args:
        slots: To be divided.
        uses: By layer and expert: how often a step needs it.

    Returns:
        As `uniform`.
    """
    ranked = [sorted(layer, reverse=True) for layer in uses]
    return _divided(slots, [len(layer) for layer in ranked], lambda layer, given: ranked[layer][given])


def _divided(slots: int, limits: Sequence[int], worth: Callable[[int, int], float]) -> tuple[int, ...]:
    """Each slot goes to the layer where it is worth most, beside those that the layer was given already.

    A worth of weight / (2 · given + 1) divides in proportion to weights (Webster's method). Ties go to the layer that
    has fewer, then to the first.
    """
    quotas = [0] * len(limits)
    offers = [(-worth(layer, 0), 0, layer) for layer, limit in enumerate(limits) if limit]
    heapq.heapify(offers)
    for _ in range(min(slots, sum(limits))):
        _, given, layer = heapq.heappop(offers)
        quotas[layer] = given + 1
        if given + 1 < limits[layer]:
            heapq.heappush(offers, (-worth(layer, given + 1), given + 1, layer))
    return tuple(quotas)
