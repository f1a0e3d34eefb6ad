"""How the ranks of a replica find each other.

Rank 0 opens a store on a port that the system has chosen, and only then tells anybody of it: nobody can take the port
in between, or come too early. All keys carry the name of this attempt: a late rank of an earlier one joins nothing.
"""

import secrets
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from triptych.core.trace import Recorder
from triptych.parallel.backends import Backends
from triptych.parallel.group import Group, Mesh, Solo
from triptych.parallel.lost import RankLost
from triptych.parallel.mesh import Parallelism
from triptych.parallel.standing import Standing
from triptych.parallel.torch_group import TorchGroup

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the ranks of one attempt meet.

    Attributes:
        host: Rank 0's address.
        port: Of its store.
        generation: The name of this attempt.
    """

    host: str
    port: int
    generation: str


class Host:
    """Rank 0's store, for as long as this object lives.

    Args:
        host: Where to listen.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        listening = socket.create_server((host, 0))
        port = listening.getsockname()[1]
        self._store = TCPStore(
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        self.rendezvous = Rendezvous(host, port, secrets.token_hex(8))


def open_mesh(
    parallelism: Parallelism,
    rank: int,
    rendezvous: Rendezvous,
    *,
    patience: float = 30.0,
    device: torch.device = CPU,
    recorder: Recorder | None = None,
) -> Mesh:
    """Makes the groups of a rank; returns when all ranks have made theirs.

    Args:
        parallelism: Of the replica.
        rank: This one.
        rendezvous: What rank 0 has told everybody.
        patience: Seconds to wait for the others, here and in every call later.
        device: Where the tensors are.
        recorder: Of what this rank does; by default one of its own.

    Raises:
        RankLost: some rank has not come in time.
    """
    try:
        store = TCPStore(rendezvous.host, rendezvous.port, is_master=False, timeout=timedelta(seconds=patience))
    except RuntimeError as error:
        raise RankLost(f"rank {rank} cannot reach rank 0's store: {error}") from error
    backends = Backends(device, rendezvous.host, timedelta(seconds=patience))
    return mesh_over(PrefixStore(rendezvous.generation, store), parallelism, rank, backends, recorder or Recorder())


def mesh_over(store: Store, parallelism: Parallelism, rank: int, backends: Backends, recorder: Recorder) -> Mesh:
    """Makes the groups of a rank over a store that all ranks share and nobody else writes to."""
    _meet(store, parallelism, rank, backends.patience)
    standing = Standing(backends.patience.total_seconds())
    made: dict[tuple[int, ...], TorchGroup] = {}

    def group(ranks: tuple[int, ...]) -> Group:
        if len(ranks) == 1:
            return Solo()
        if ranks not in made:
            own = PrefixStore("-".join(map(str, ranks)), store)
            device, host = backends.open(own, ranks.index(rank), len(ranks))
            made[ranks] = TorchGroup(device, host, ranks, standing, recorder)
        return made[ranks].counted_apart()

    try:
        return Mesh(
            parallelism,
            rank,
            group(parallelism.tensor_ranks(rank)),
            group(parallelism.expert_ranks(rank)),
            group(parallelism.attention_ranks(rank)),
            recorder,
        )
    except (RuntimeError, OSError) as error:
        raise RankLost(f"rank {rank} could not connect with the others: {error}") from error


def _meet(store: Store, parallelism: Parallelism, rank: int, patience: timedelta) -> None:
    store.set(f"here-{rank}", "")
    for other in range(parallelism.size):
        try:
            store.wait([f"here-{other}"], patience)
        except RuntimeError as error:
            raise RankLost(f"rank {other} has not come within {patience.total_seconds():g} s") from error
