"""Replicas whose ranks are threads: real channels, real pools with known content, real transfers."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from triptych.core.generation import OperationKey
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub, Member
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.movers import Movers
from triptych.stages.ranks import KvLayout, RankKv, RemoteRank, ReplicaKv, ServedRank, remote_ranks
from triptych.stages.ranks.layout import geometry_of
from triptych.stages.ranks.messages import Order
from triptych.stages.ranks.served import reporting
from triptych.transfer import Heads, SharedSegment, TransferBackend, TransferServer
from triptych.transfer.segment import Bytes

LAYERS, BLOCKS, TOKENS, DIM = 3, 12, 4, 10
HEAD_BYTES = TOKENS * DIM


class Rank:
    """One rank's pool and its ends."""

    def __init__(self, heads: Heads, sides: int, report: Callable[[Any], None], options: dict[str, Any]) -> None:
        shape = (LAYERS, BLOCKS, sides, heads.count, TOKENS, DIM)
        geometry = geometry_of(shape, 1, heads)
        self.heads = heads
        self.pool = SharedSegment.create(geometry.size)
        self.content = self.pool.array.reshape(LAYERS, BLOCKS, sides, heads.count, HEAD_BYTES)
        self.kv = RankKv.over(self.pool, geometry, report, **options)
        self.server = TransferServer([self.kv.receiver])

    def close(self) -> None:
        self.server.shutdown()
        self.pool.close()


@dataclass
class Replica:
    """Rank 0 with its movers, the others with what serves them.

    Attributes:
        posted: What the compute thread of rank 0 would get.
    """

    heads: list[Heads]
    sides: int
    lanes: int
    options: dict[str, Any]
    posted: "queue.Queue[Any]" = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        size = len(self.heads) * self.lanes
        self.hub = Hub(size)
        self.members = [Member(self.hub.address, self.hub.key, rank) for rank in range(1, size)]
        self.hub.gather(60)
        reports: list[Callable[[Any], None]] = [lambda report: self.kv.heard(0, report)]
        reports += [reporting(member.send) for member in self.members]
        self.ranks = [
            Rank(self.heads[rank % len(self.heads)], self.sides, report, self.options)
            for rank, report in enumerate(reports)
        ]
        layout = KvLayout(tuple(self.heads), BLOCKS, tuple(rank.server.endpoint for rank in self.ranks))
        self.remote: tuple[RemoteRank, ...] = remote_ranks(self.hub, size)
        self.kv: ReplicaKv = ReplicaKv(self.ranks[0].kv, layout, self.remote, self.posted.put)
        self.kv.follow(self.hub)
        self.served = [ServedRank(rank.kv, report) for rank, report in zip(self.ranks[1:], reports[1:], strict=True)]
        for member, served in zip(self.members, self.served, strict=True):
            member.subscribe(Order, served.handle)
            threading.Thread(target=_follow, args=(member,), daemon=True).start()
        self.movers = Movers(self.kv, lambda handle: pytest.fail("nothing is pulled"), self.posted.put)

    def fill(self, kept: Bytes) -> None:
        """Puts into every rank's pool what it has of the model's."""
        for number, rank in enumerate(self.ranks):
            lane = number // len(self.heads)
            rank.content[:] = kept[lane, :, :, :, rank.heads.first : rank.heads.end]

    def ticket(self, name: str, blocks: list[int], router: str = "router") -> pb.Ticket:
        """Opens a lease and gives out its ticket."""
        self.movers.open_lease(OperationKey(name, 0), name, blocks, router)
        endpoint = self.ranks[0].server.endpoint
        return pb.Ticket(
            ticket_id=name,
            endpoint=pb.DataEndpoint(address=endpoint.address, host_id=endpoint.host_id),
            blocks=len(blocks),
            shares=self.movers.shares(blocks),
        )

    def hear(self) -> Any:
        return self.posted.get(timeout=60)

    def states(self, ticket_id: str) -> list[Any]:
        return [rank.kv.receiver.state(ticket_id) for rank in self.ranks]

    def close(self) -> None:
        self.hub.close()
        for member in self.members:
            member.close()
        self.movers.close()
        for served in self.served:
            served.close()
        for rank in self.ranks:
            rank.close()


def _follow(member: Member) -> None:
    """What the compute thread of a follower does: orders do not come this way."""
    with contextlib.suppress(RankLost):
        pytest.fail(f"nobody takes {member.receive()}")


@pytest.fixture
def replica() -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(heads: list[Heads], sides: int = 2, lanes: int = 1, **options: Any) -> Replica:
        made.append(Replica(heads, sides, lanes, options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=[TransferBackend.SHARED_MEMORY, TransferBackend.TCP])
def backend(request: pytest.FixtureRequest) -> TransferBackend:
    backend: TransferBackend = request.param
    return backend
