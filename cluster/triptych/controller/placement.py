"""On which nodes the ranks of a worker belong: pure.

Ranks that divide matrices talk several times in every layer, and belong on one node. Where a node has room for the
whole worker, all of its ranks go there; where none has, rows of expert ranks are divided among nodes: equally many to
each, so that experts can be balanced node by node, and as many as there is room for. Workers go where fewest others
of the cluster are, so that the end of a node is the end of few.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from triptych.core.errors import FailedPrecondition
from triptych.parallel import Parallelism

Resources = Mapping[str, float]
"""Amounts by the name that Ray calls them, such as CPU and GPU."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a Ray cluster.

    Attributes:
        node_id: Ray's.
        resources: All that it has, whether somebody uses it or not.
    """

    node_id: str
    resources: Resources


def packs(parallelism: Parallelism, rank: Resources, nodes: Iterable[Node]) -> tuple[int, ...]:
    """How many ranks, in their order, go together on one node: whole rows, and equally many everywhere.

    Args:
        parallelism: The worker's.
        rank: What each rank takes.
        nodes: Those of the Ray cluster.

    Raises:
        FailedPrecondition: no node has room for the ranks that divide matrices.
    """
    room = [capacity(node, rank) for node in nodes]
    if max(room, default=0) >= parallelism.tensor:
        rows = next(filter(partial(_fits, parallelism, room), range(parallelism.expert, 1, -1)), 1)
        return (rows * parallelism.tensor,) * (parallelism.expert // rows)
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in rank.items() if amount)
    raise FailedPrecondition(
        f"the {parallelism.tensor} ranks that divide matrices belong on one node, and the largest node of the Ray "
        f"cluster has room for {max(room, default=0)} of {wanted} each; lower tensor_parallel",
        field="tensor_parallel",
    )


def _fits(parallelism: Parallelism, room: Sequence[int], rows: int) -> bool:
    """Whether nodes with so much room can have the rows of a worker, so many on each."""
    packs, none = divmod(parallelism.expert, rows)
    return not none and sum(ranks // (rows * parallelism.tensor) for ranks in room) >= packs


def capacity(node: Node, rank: Resources) -> int:
    """How many ranks a node has room for when nobody else is there."""
    return min(int(node.resources.get(name, 0.0) / amount + 1e-6) for name, amount in rank.items() if amount)


def quietest(nodes: Iterable[Node], rank: Resources, count: int, taken: Iterable[str]) -> str | None:
    """The node with room for `count` ranks on which fewest packs of ranks are; None where there is no such node.

    Args:
        nodes: Those of the Ray cluster.
        rank: What each rank takes.
        count: Ranks that go together.
        taken: The node of each pack that is placed already, by id.
    """
    packs_on = Counter(taken)
    fit = [node.node_id for node in nodes if capacity(node, rank) >= count]
    return min(fit, key=lambda node_id: (packs_on[node_id], node_id), default=None)
