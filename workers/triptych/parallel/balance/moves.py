"""From one placement to another, with as few copies as possible."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from triptych.parallel.balance.placement import Placement


@dataclass(frozen=True, slots=True)
class Move:
    """An expert that a rank does not have yet.

    Attributes:
        rank: Which.
        expert: What it reads.
    """

    rank: int
    expert: int


def settle(old: Placement, new: Placement, nodes: int = 1) -> Placement:
    """The new placement, relabelled so that what stays, stays where it is; the loads of the ranks are as in the new.

    Nodes are alike, and so are the ranks of one: each of the old ones takes over the share of the new that it has
    most of, the best match first; what the new has on one node, stays together. Within a rank an expert that it
    already has keeps its slot, and the others fill the slots left.

    Args:
        old: Where experts are.
        new: Where they should be.
        nodes: Machines that the ranks are on, equally many on each, in their order.
    """
    here, there = _by_node(old, nodes), _by_node(new, nodes)
    slots: list[tuple[int, ...]] = []
    for ranks, node in zip(here, _takers([*map(_together, here)], [*map(_together, there)]), strict=True):
        shares = there[node]
        slots += (_in_slots(rank, shares[share]) for rank, share in zip(ranks, _takers(ranks, shares), strict=True))
    return Placement(tuple(slots))


def moves(old: Placement, new: Placement) -> tuple[Move, ...]:
    """What has to be read; a second slot for an expert that the rank has costs nothing."""
    return tuple(
        Move(rank, expert)
        for rank, (before, after) in enumerate(zip(old.slots, new.slots, strict=True))
        for expert in sorted(set(after) - set(before))
    )


def _by_node(placement: Placement, nodes: int) -> list[tuple[tuple[int, ...], ...]]:
    """The slots of each node's ranks."""
    size = placement.ranks // nodes
    return [placement.slots[node * size : (node + 1) * size] for node in range(nodes)]


def _together(ranks: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(chain.from_iterable(ranks))


def _takers(old: Sequence[tuple[int, ...]], new: Sequence[tuple[int, ...]]) -> list[int]:
    """Which share of the new each of the old takes over."""
    taken: dict[int, int] = {}
    for place, share in _by_match(old, new):
        if place not in taken and share not in taken.values():
            taken[place] = share
    left = iter(sorted(set(range(len(new))) - set(taken.values())))
    return [taken[place] if place in taken else next(left) for place in range(len(old))]


def _in_slots(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    left = Counter(after)
    kept: list[int | None] = []
    for expert in before:
        stays = left[expert] > 0
        left[expert] -= stays
        kept.append(expert if stays else None)
    others = iter((left - Counter()).elements())
    return tuple(next(others) if expert is None else expert for expert in kept)


def _by_match(old: Sequence[tuple[int, ...]], new: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Places and shares that have experts in common, those with most first."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for share, slots in enumerate(new):
        for expert, count in Counter(slots).items():
            wanted.setdefault(expert, []).append((share, count))
    common: Counter[tuple[int, int]] = Counter()
    for place, slots in enumerate(old):
        for expert, count in Counter(slots).items():
            for share, most in wanted.get(expert, ()):
                common[place, share] += min(count, most)
    return sorted(common, key=lambda pair: (-common[pair], pair[0] != pair[1], pair))
