"""The two greedy steps of EPLB (github.com/deepseek-ai/EPLB): equal packs, and further copies of what is heavy."""

import heapq
from collections.abc import Sequence

from triptych.core.errors import InvalidArgument


def pack(weights: Sequence[float], packs: int) -> tuple[tuple[int, ...], ...]:
    """Divides n items among packs of n / packs items: the heaviest first, each into the lightest pack with room.

    Args:
        weights: Of the items, not negative.
        packs: How many; divides n.

    Returns:
        The items of each pack, in the order in which they came in.

    Raises:
        InvalidArgument: the packs do not divide the items.
    """
    if packs < 1 or len(weights) % packs:
        raise InvalidArgument(f"{len(weights)} items cannot be dealt out to {packs} packs of equal size")
    room = len(weights) // packs
    if room == 1:
        return tuple((item,) for item in range(packs))
    filled: list[list[int]] = [[] for _ in range(packs)]
    lightest: list[tuple[float, int]] = [(0, number) for number in range(packs)]
    for item in sorted(range(len(weights)), key=lambda i: -weights[i]):
        load, number = heapq.heappop(lightest)
        filled[number].append(item)
        if len(filled[number]) < room:
            heapq.heappush(lightest, (load + weights[item], number))
    return tuple(map(tuple, filled))


def replicate(weights: Sequence[float], copies: int) -> tuple[int, ...]:
    """Copies of E experts, each at least once; every further one is of the expert whose copies have most to do.

    Args:
        weights: [E], not negative.
        copies: In all, at least E.

    Returns:
        [copies], the expert that each is of: first every expert in order, then the further ones as they were chosen.

    Raises:
        InvalidArgument: there are fewer copies than experts.
    """
    if copies < len(weights):
        raise InvalidArgument(f"{len(weights)} experts need at least as many slots, got {copies}")
    count = [1] * len(weights)
    heaviest = [(-weight, expert) for expert, weight in enumerate(weights)]
    heapq.heapify(heaviest)
    chosen = list(range(len(weights)))
    for _ in range(copies - len(weights)):
        _, expert = heaviest[0]
        count[expert] += 1
        chosen.append(expert)
        heapq.heapreplace(heaviest, (-weights[expert] / count[expert], expert))
    return tuple(chosen)
