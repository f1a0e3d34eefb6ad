"""The fewest reads that anybody could have done who knew what comes (Belady, IBM Systems Journal 5(2), 1966)."""

import heapq
from collections.abc import Sequence

from triptych.experts.traces.routes import Demand

_NEVER = 1 << 60


def fewest_reads(demands: Sequence[Demand], slots: int) -> tuple[int, ...]:
    """By step: experts that had to be read, however a pool of `slots` had been used before.

    What is read is used even where it is not worth a slot, so a layer may need more experts than there are slots. All
    experts of a demand are asked for at once: whoever is there is no read, whoever takes the places afterwards.
    """
    following = _following(demands)
    until: dict[tuple[int, int], int] = {}
    furthest: list[tuple[int, int, int]] = []
    reads: list[int] = []
    for demand, later in zip(demands, following, strict=True):
        absent = 0
        for layer, (experts, turns) in enumerate(zip(demand, later, strict=True)):
            absent += sum((layer, expert) not in until for expert in experts)
            for expert, turn in zip(experts, turns, strict=True):
                until[layer, expert] = turn
                heapq.heappush(furthest, (-turn, layer, expert))
            while len(until) > slots:
                turn, layer_, expert = heapq.heappop(furthest)
                if until.get((layer_, expert)) == -turn:
                    del until[layer_, expert]
        reads.append(absent)
    return tuple(reads)


def _following(demands: Sequence[Demand]) -> list[list[list[int]]]:
    """By step, layer and place in the demand: when the expert is asked for again, counted in layers."""
    layers = len(demands[0]) if demands else 0
    soonest: dict[tuple[int, int], int] = {}
    found: list[list[list[int]]] = []
    for step in range(len(demands) - 1, -1, -1):
        turns: list[list[int]] = [[] for _ in range(layers)]
        for layer in range(layers - 1, -1, -1):
            for expert in demands[step][layer]:
                turns[layer].append(soonest.get((layer, expert), _NEVER))
                soonest[layer, expert] = step * layers + layer
        found.append(turns)
    return found[::-1]
