"""Load balance of experts as DeepSeek has it (EPLB, arXiv:2412.19437 section 3.4, github.com/deepseek-ai/EPLB).

Hierarchical where the groups of experts divide among the nodes: groups are packed onto nodes, so that a token whose
router picks few groups stays on few nodes; experts are copied within their node; copies are packed onto its ranks.
Global otherwise: one group, one node.
"""

from collections import Counter
from collections.abc import Sequence

from triptych.core.errors import InvalidArgument
from triptych.parallel.balance.packing import pack, replicate
from triptych.parallel.balance.placement import Placement


def rebalance(
    weights: Sequence[Sequence[float]], replicas: int, groups: int, nodes: int, ranks: int
) -> tuple[Placement, ...]:
    """Where the copies of every layer's experts should be.

    Args:
        weights: [layers][E], what each expert had to do.
        replicas: Physical slots of a layer, at least E, divided by `ranks`.
        groups: Equal groups that the experts are in, in their order.
        nodes: Machines that the ranks are on, in their order; divides `ranks`.
        ranks: Among which the slots are divided.

    Raises:
        InvalidArgument: something is not divided by what it must be.
    """
    return tuple(rebalance_layer(layer, replicas, groups, nodes, ranks) for layer in weights)


def rebalance_layer(weights: Sequence[float], replicas: int, groups: int, nodes: int, ranks: int) -> Placement:
    """One layer of `rebalance`."""
    if groups % nodes:
        groups = nodes = 1
    for what, total, parts in (
        ("experts", len(weights), groups),
        ("ranks", ranks, nodes),
        ("slots", replicas, ranks),
    ):
        if total % parts:
            raise InvalidArgument(f"{total} {what} cannot be divided equally by {parts}")
    size = len(weights) // groups
    sums = [sum(weights[group * size : (group + 1) * size]) for group in range(groups)]
    slots: list[tuple[int, ...]] = []
    for node in pack(sums, nodes):
        experts = [group * size + place for group in node for place in range(size)]
        slots += _within(experts, [weights[e] for e in experts], replicas // nodes, ranks // nodes)
    return Placement(tuple(slots))


def _within(experts: list[int], weights: list[float], replicas: int, ranks: int) -> list[tuple[int, ...]]:
    """The slots of one node's ranks."""
    copies = replicate(weights, replicas)
    count = Counter(copies)
    shares = [weights[copy] / count[copy] for copy in copies]
    return [tuple(experts[copies[item]] for item in items) for items in pack(shares, ranks)]
