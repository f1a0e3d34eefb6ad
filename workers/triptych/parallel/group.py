"""Ranks that compute together, as the model sees them: a few collectives on tensors that are there already."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from triptych.core.trace import Recorder
from triptych.parallel.lost import RankLost
from triptych.parallel.mesh import ALONE, Parallelism
from triptych.parallel.traffic import Traffic


class Group(Protocol):
    """Some ranks of a replica. Every one of them makes the same calls in the same order, on tensors of equal types.

    All calls return when the result is there; on a GPU, when it will be there for what is enqueued behind them. They
    raise RankLost when a member is gone, or has not come within the group's patience; on a GPU `check` does, later.
    """

    @property
    def rank(self) -> int:
        """This member's number in the group, from 0."""

    @property
    def size(self) -> int:
        """How many members there are."""

    @property
    def traffic(self) -> Traffic:
        """What has been sent so far."""

    def all_reduce(self, x: Tensor) -> None:
        """Adds x [...] up over all members, in place. Every member has the same bits afterwards."""

    def all_gather(self, x: Tensor, out: Tensor) -> None:
        """Writes every member's x [...] into out [size, ...], by rank; shapes are equal."""

    def all_to_all(self, x: Tensor, sent: Sequence[int], out: Tensor, received: Sequence[int]) -> None:
        """Sends `sent[r]` rows of x [sum(sent), ...] to rank r, and writes the `received[r]` rows of each to out."""

    def check(self) -> None:
        """Raises RankLost if calls on a GPU may have been given up; to be called when what is behind them is over."""

    def abort(self, reason: RankLost | None = None) -> None:
        """Gives up all groups of this rank: calls under way and later ones raise; idempotent, from any thread."""


@dataclass(frozen=True, slots=True)
class Solo:
    """A group of one: nothing is sent, and what is gathered is copied."""

    traffic: Traffic = field(default_factory=Traffic)

    @property
    def rank(self) -> int:
        """See `Group.rank`."""
        return 0

    @property
    def size(self) -> int:
        """See `Group.size`."""
        return 1

    def all_reduce(self, x: Tensor) -> None:
        """See `Group.all_reduce`."""

    def all_gather(self, x: Tensor, out: Tensor) -> None:
        """See `Group.all_gather`."""
        out[0].copy_(x)

    def all_to_all(self, x: Tensor, sent: Sequence[int], out: Tensor, received: Sequence[int]) -> None:
        """See `Group.all_to_all`."""
        out.copy_(x)

    def check(self) -> None:
        """See `Group.check`."""

    def abort(self, reason: RankLost | None = None) -> None:
        """See `Group.abort`."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The groups that one rank is in.

    Attributes:
        parallelism: Of the replica.
        rank: Among all of them.
        tensor: Those that divide the experts' matrices with it.
        expert: Those that divide the experts with it.
        attention: Those of its lane: they divide heads, vocabulary and the matrices that every token goes through.
        recorder: Of what this rank does.
    """

    parallelism: Parallelism = ALONE
    rank: int = 0
    tensor: Group = field(default_factory=Solo)
    expert: Group = field(default_factory=Solo)
    attention: Group = field(default_factory=Solo)
    recorder: Recorder = field(default_factory=Recorder)

    def check(self) -> None:
        """Of all of them; see `Group.check`."""
        for group in (self.tensor, self.expert, self.attention):
            group.check()

    def abort(self, reason: RankLost | None = None) -> None:
        """Gives all of them up; see `Group.abort`."""
        for group in (self.tensor, self.expert, self.attention):
            group.abort(reason)
