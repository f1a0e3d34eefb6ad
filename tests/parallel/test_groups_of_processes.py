"""Ranks as processes of their own: how they meet, and what happens when one of them dies or stands still."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from triptych.parallel import Mesh, Parallelism, RankLost
from triptych.parallel.channel import Hub
from triptych.parallel.rendezvous import Host, open_mesh

_WITHIN = 60.0
_GRID = Parallelism(tensor=3)

_FOLLOWER = """
import pickle, sys
import torch
from triptych.parallel import RankLost
from triptych.parallel.channel import Member
from triptych.parallel.rendezvous import open_mesh

address, key, rendezvous, parallelism, rank = pickle.load(sys.stdin.buffer)
member = Member(address, key, rank)
mesh = open_mesh(parallelism, rank, rendezvous, patience=60)
member.on_lost(mesh.abort)
try:
    while True:
        member.receive()
        mesh.tensor.all_reduce(torch.ones(4))
except RankLost as lost:
    member.give_up(lost)
    print(lost, flush=True)
"""


class Replica:
    """Rank 0 in this process, the others in theirs."""

    def __init__(self, *, silence: float) -> None:
        self.hub = Hub(_GRID.size, patience=silence)
        self.lost: Future[RankLost] = Future()
        host = Host()
        self.followers = [self._follow(host, rank) for rank in range(1, _GRID.size)]
        self.mesh: Mesh = open_mesh(_GRID, 0, host.rendezvous, patience=60)
        self.hub.on_lost(self.mesh.abort)
        self.hub.on_lost(self.lost.set_result)
        self.hub.gather(_WITHIN)
        self.step()

    def _follow(self, host: Host, rank: int) -> "subprocess.Popen[bytes]":
        follower = subprocess.Popen([sys.executable, "-c", _FOLLOWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert follower.stdin
        pickle.dump((self.hub.address, self.hub.key, host.rendezvous, _GRID, rank), follower.stdin)
        follower.stdin.flush()
        return follower

    def step(self) -> None:
        x = torch.ones(4)
        self.hub.send("step")
        self.mesh.tensor.all_reduce(x)
        assert x.tolist() == [3, 3, 3, 3]

    def close(self) -> None:
        self.hub.close()
        for follower in self.followers:
            follower.kill()
            follower.communicate()


@pytest.fixture
def replica() -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(silence: float) -> Replica:
        made.append(Replica(silence=silence))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_killed_rank_fails_a_call_under_way_everywhere(replica: Callable[..., Replica]) -> None:
    group = replica(silence=60)
    group.followers[1].kill()
    with pytest.raises(RankLost):
        group.step()
    assert "rank 2 has closed the connection" in str(group.lost.result(_WITHIN))
    said, _ = group.followers[0].communicate(timeout=_WITHIN)
    assert b"ended" in said


def test_a_stopped_rank_fails_a_call_under_way_everywhere(replica: Callable[..., Replica]) -> None:
    group = replica(silence=5)
    os.kill(group.followers[1].pid, signal.SIGSTOP)
    with pytest.raises(RankLost, match="rank 2 has been silent for 5 s"):
        group.step()
    said, _ = group.followers[0].communicate(timeout=_WITHIN)
    assert b"rank 0 has ended the group" in said
    with pytest.raises(RankLost, match="rank 2 has been silent"):
        group.mesh.tensor.all_reduce(torch.ones(1))


def test_a_rank_of_an_earlier_attempt_joins_nothing() -> None:
    pair = Parallelism(tensor=2)
    early, host = Host(), Host()
    late = type(host.rendezvous)(host.rendezvous.host, host.rendezvous.port, early.rendezvous.generation)
    with pytest.raises(RankLost, match=r"rank 0 has not come within 2 s"):
        open_mesh(pair, 1, late, patience=2)
    with ThreadPoolExecutor(2) as pool:
        meshes = list(pool.map(lambda rank: open_mesh(pair, rank, host.rendezvous), range(2)))
    assert [mesh.tensor.rank for mesh in meshes] == [0, 1]


def test_who_has_not_come_is_named() -> None:
    host = Host()
    with pytest.raises(RankLost, match=r"rank 1 has not come within 2 s"):
        open_mesh(Parallelism(tensor=2), 0, host.rendezvous, patience=2)


def test_nobody_listens_any_more() -> None:
    host = Host()
    rendezvous = host.rendezvous
    del host
    with pytest.raises(RankLost, match="rank 1 cannot reach rank 0's store"):
        open_mesh(Parallelism(tensor=2), 1, rendezvous, patience=0.2)
