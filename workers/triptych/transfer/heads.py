"""KV heads of a model: which of them a rank's pool holds, and which go from which rank to which. Pure.

A page of a pool is `[k|v, head, token, dim]`, so that neighbouring heads lie side by side in it, once for keys and
once for values. Two replicas that divide the heads among different numbers of ranks exchange the intersections of
their intervals. Where there are more ranks than heads several ranks hold the same head, and with latent attention all
of them hold the same vector, which is one head of one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from triptych.core.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True, slots=True, order=True)
class Heads:
    """KV heads `first, first + 1, …, first + count - 1` of the whole model; at least one."""

    first: int
    count: int

    def __post_init__(self) -> None:
        """Refuses what no page can hold."""
        if self.first < 0 or self.count < 1:
            raise InvalidArgument(
                f"KV heads must be at least one, from 0 on, got {self.count} from {self.first} on", field="heads"
            )

    def __str__(self) -> str:
        return f"{self.first} to {self.end - 1}" if self.count > 1 else str(self.first)

    @property
    def end(self) -> int:
        """The head behind the last one."""
        return self.first + self.count

    def holds(self, other: "Heads") -> bool:
        """Whether all of the others are among these."""
        return self.first <= other.first and other.end <= self.end

    def meets(self, other: "Heads") -> bool:
        """Whether one of the others is among these."""
        return self.first < other.end and other.first < self.end


@dataclass(frozen=True, slots=True)
class HeadMove:
    """What one rank sends to another of every page.

    Attributes:
        sender: Among the ranks of the sending replica.
        receiver: Among those of the receiving one.
        heads: Which; both hold them.
    """

    sender: int
    receiver: int
    heads: Heads


def head_plan(senders: Sequence[Heads], receivers: Sequence[Heads], turn: int = 0) -> tuple[HeadMove, ...]:
    """Who sends what to whom, so that every receiver gets each of its heads exactly once.

    There is one move for each stretch of a receiver's heads that the same ranks hold; of several that hold it the one
    sends it that has least to send so far.

    Args:
        senders: What each rank of the sending replica holds.
        receivers: What each rank of the receiving one needs.
        turn: With whom to begin where several are alike; tickets with different turns load different ranks.

    Returns:
        By receiver, then by head.

    Raises:
        FailedPrecondition: nobody holds one of the heads.
    """
    load = [0] * len(senders)
    moves: list[HeadMove] = []
    stretches = [_Stretch(r, heads, senders) for r, wanted in enumerate(receivers) for heads in _cut(wanted, senders)]
    for stretch in sorted(stretches, key=lambda s: len(s.holders)):  # who has no choice comes first
        sender = min(stretch.holders, key=lambda s: (load[s], (s - turn) % len(senders)))
        load[sender] += stretch.heads.count
        moves.append(HeadMove(sender, stretch.receiver, stretch.heads))
    return tuple(sorted(moves, key=lambda move: (move.receiver, move.heads)))


class _Stretch:
    """Neighbouring heads of one receiver that the same senders hold."""

    def __init__(self, receiver: int, heads: Heads, senders: Sequence[Heads]) -> None:
        self.receiver = receiver
        self.heads = heads
        self.holders = [index for index, held in enumerate(senders) if held.holds(heads)]
        if not self.holders:
            raise FailedPrecondition(f"no rank of the sending replica holds KV head {heads}", field="shares")


def _cut(wanted: Heads, senders: Sequence[Heads]) -> list[Heads]:
    """The heads, cut wherever a sender's begin or end."""
    inside = {edge for held in senders for edge in (held.first, held.end) if wanted.first < edge < wanted.end}
    edges = [wanted.first, *sorted(inside), wanted.end]
    return [Heads(first, end - first) for first, end in pairwise(edges)]
