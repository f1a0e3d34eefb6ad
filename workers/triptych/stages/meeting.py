"""How the processes of a worker find each other: rank 0 opens a door, and whoever has its key comes in."""

import contextlib
from dataclasses import dataclass, field
from time import monotonic

from triptych.core.trace import Recorder
from triptych.engine.ranks.messages import Stop
from triptych.engine.ranks.readiness import Readiness
from triptych.engine.ranks.tracing import TracedRanks
from triptych.parallel import Mesh, Parallelism, RankLost
from triptych.parallel.channel import Hub, Member
from triptych.parallel.patience import PATIENCE, SILENCE
from triptych.parallel.rendezvous import Host, Rendezvous, open_mesh
from triptych.transfer import Endpoint

GATHER_SECONDS = 300.0
"""How long rank 0 waits for the others. A process that dies meanwhile is noticed by who has placed it."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of one attempt to start a worker meet; another attempt has another.

    Attributes:
        address: Rank 0's end of the channel.
        key: Opens it.
        rendezvous: Where the groups are made.
    """

    address: tuple[str, int]
    key: bytes = field(repr=False)
    rendezvous: Rendezvous


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rank 0 to the others: all are there, the groups can be made."""


@dataclass(frozen=True, slots=True)
class Reachable:
    """Another rank to rank 0: its KV comes and goes here."""

    endpoint: Endpoint


class Convener:
    """Rank 0's side.

    Args:
        parallelism: Of the worker.
        host: Address to listen on.

    Attributes:
        hub: Reaches the others once `open` has returned.
        meeting: What they have to be told.
    """

    def __init__(self, parallelism: Parallelism, host: str) -> None:
        self.hub = Hub(parallelism.size, host, patience=SILENCE)
        self._parallelism = parallelism
        self._store = Host(host)
        self._endpoints: dict[int, Endpoint] = {}
        self._ready = Readiness(self.hub, parallelism.size)
        self._opened = monotonic()
        self.hub.subscribe(Reachable, lambda rank, said: self._endpoints.update({rank: said.endpoint}))
        self.meeting = Meeting(self.hub.address, self.hub.key, self._store.rendezvous)

    def open(self, recorder: Recorder) -> Mesh:
        """Waits for the others, and makes the groups with them; `recorder` is that of rank 0.

        Raises:
            RankLost: somebody does not come, or is gone again.
        """
        self.hub.gather(GATHER_SECONDS)
        self.hub.send(Gathered())
        mesh = open_mesh(self._parallelism, 0, self._store.rendezvous, patience=PATIENCE, recorder=recorder)
        recorder.others = TracedRanks(self.hub, self._parallelism.size)
        self.hub.on_lost(mesh.abort)
        self._opened = monotonic()
        return mesh

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the KV of ranks 1 and up comes and goes; waits until each has its share of the model.

        Raises:
            RankLost: one of them is gone, or could not load it, or is late.
        """
        self._ready.wait(self._opened)
        return tuple(self._endpoints[rank] for rank in range(1, self._parallelism.size))

    def close(self) -> None:
        """Tells the others that it is over."""
        with contextlib.suppress(RankLost):
            self.hub.send(Stop())
        self.hub.close()


def join(meeting: Meeting, parallelism: Parallelism, rank: int) -> tuple[Member, Mesh]:
    """Another rank's side.

    Raises:
        RankLost: somebody does not come, or is gone again.
    """
    member = Member(meeting.address, meeting.key, rank)
    try:
        assert isinstance(member.receive(), Gathered)
        mesh = open_mesh(parallelism, rank, meeting.rendezvous, patience=PATIENCE)
    except Exception as error:
        member.give_up(error)
        raise
    member.on_lost(mesh.abort)
    return member, mesh
