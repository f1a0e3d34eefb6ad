"""Groups of threads in one process: the collectives as copies between tensors that all of them can reach.

For tests whose subject is what is computed, not how it travels: a call costs microseconds, not a round of messages.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from triptych.parallel.group import Group, Mesh, Solo
from triptych.parallel.lost import RankLost
from triptych.parallel.mesh import Parallelism
from triptych.parallel.torch_group import sum_in_order
from triptych.parallel.traffic import Traffic, sent_by_all_reduce


class Meeting:
    """Where the members of a group come together.

    Args:
        size: How many they are.
        patience: Seconds that one waits for the others.
    """

    def __init__(self, size: int, patience: float) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=patience)
        self._brought: list[tuple[Tensor, Sequence[int]]] = [(Tensor(), ())] * size

    def exchange(
        self, rank: int, x: Tensor, sent: Sequence[int], take: Callable[[list[tuple[Tensor, Sequence[int]]]], None]
    ) -> None:
        """Shows what every member has brought to `take`, which may copy it and must not change it."""
        self._brought[rank] = (x, sent)
        self._wait()
        take(self._brought)
        self._wait()

    def abort(self) -> None:
        """Whoever waits, or comes later, gets RankLost."""
        self._barrier.abort()

    def _wait(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise RankLost("another rank has not come in time, or has given the group up") from None


@dataclass(frozen=True, slots=True)
class ThreadGroup:
    """A member of a meeting; see `Group`. It counts the bytes that messages would take."""

    meeting: Meeting
    rank: int
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def size(self) -> int:
        """See `Group.size`."""
        return self.meeting.size

    def all_reduce(self, x: Tensor) -> None:
        """See `Group.all_reduce`; summed up in the order of the ranks by everybody."""
        total = x.new_empty(x.shape)

        def take(brought: list[tuple[Tensor, Sequence[int]]]) -> None:
            sum_in_order([part for part, _ in brought], total)

        self.meeting.exchange(self.rank, x, (), take)
        x.copy_(total)
        self.traffic.count("all_reduce", sent_by_all_reduce(x.nbytes, self.size))

    def all_gather(self, x: Tensor, out: Tensor) -> None:
        """See `Group.all_gather`."""

        def take(brought: list[tuple[Tensor, Sequence[int]]]) -> None:
            for place, (other, _) in zip(out, brought, strict=True):
                place.copy_(other.view_as(place))

        self.meeting.exchange(self.rank, x, (), take)
        self.traffic.count("all_gather", x.nbytes * (self.size - 1))

    def all_to_all(self, x: Tensor, sent: Sequence[int], out: Tensor, received: Sequence[int]) -> None:
        """See `Group.all_to_all`."""

        def take(brought: list[tuple[Tensor, Sequence[int]]]) -> None:
            end = 0
            for count, (other, counts) in zip(received, brought, strict=True):
                start, first = end, sum(counts[: self.rank])
                end += count
                out[start:end].copy_(other[first : first + counts[self.rank]])

        self.meeting.exchange(self.rank, x, sent, take)
        self.traffic.count("all_to_all", x[:1].nbytes * (sum(sent) - sent[self.rank]))

    def check(self) -> None:
        """See `Group.check`."""

    def abort(self, reason: RankLost | None = None) -> None:
        """See `Group.abort`."""
        self.meeting.abort()


def thread_meshes(parallelism: Parallelism, patience: float) -> tuple[Mesh, ...]:
    """The groups of every rank of a replica; a collective waits `patience` seconds for the others."""
    meetings: dict[tuple[str, tuple[int, ...]], Meeting] = {}

    def group(name: str, ranks: tuple[int, ...], rank: int) -> Group:
        if len(ranks) == 1:
            return Solo()
        meeting = meetings.setdefault((name, ranks), Meeting(len(ranks), patience))
        return ThreadGroup(meeting, ranks.index(rank))

    return tuple(
        Mesh(
            parallelism,
            rank,
            group("tensor", parallelism.tensor_ranks(rank), rank),
            group("expert", parallelism.expert_ranks(rank), rank),
            group("attention", parallelism.attention_ranks(rank), rank),
        )
        for rank in range(parallelism.size)
    )
