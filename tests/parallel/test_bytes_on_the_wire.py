"""What the kernel says that gloo's sockets have sent is what groups count."""

import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
import torch

from triptych.parallel import Group, Mesh, Parallelism
from triptych.parallel.testing import run_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the bytes of a connection")

RANKS: Final = 4
KIB, MIB = 1 << 10, 1 << 20
ENVELOPE: Final = 48
"""Bytes that gloo puts before whatever it sends, and says everything else with."""
ENVELOPES: Final = 12 * RANKS
"""More than a call of one rank needs."""
_SENT: Final = struct.Struct("=200x2Q")
"""From Linux' struct tcp_info (tcp.h): bytes_sent, and of them bytes_retrans."""


def sent_by_connection() -> Counter[tuple[int, int]]:
    """Bytes that each TCP connection of this process has sent, by the ports of both ends."""
    found = Counter[tuple[int, int]]()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # not open any more, or a socket of another kind, or one that listens
            if not os.readlink(file).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as open_:
                info = open_.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT.size)
                sent, again = _SENT.unpack(info)
                found[open_.getsockname()[1], open_.getpeername()[1]] = sent - again
    return found


def all_reduce(group: Group, x: torch.Tensor) -> None:
    group.all_reduce(x)


def all_gather(group: Group, x: torch.Tensor) -> None:
    group.all_gather(x, x.new_empty(RANKS, len(x)))


def all_to_all(group: Group, x: torch.Tensor) -> None:
    """The next rank gets twice as much as the others, and nobody anything of its own."""

    def shares(twice: int) -> list[int]:
        return [len(x) // RANKS * (0 if rank == group.rank else 1 + (rank == twice)) for rank in range(RANKS)]

    sent, received = (shares((group.rank + step) % RANKS) for step in (1, -1))
    group.all_to_all(x, sent, torch.empty_like(x), received)


CALLS = (all_reduce, all_gather, all_to_all)
SIZES = (4 * KIB, 4 * MIB)


class Wire:
    """The ranks' connections; the ranks are threads of this process, and go from step to step together."""

    def __init__(self) -> None:
        self._before = self._grown = Counter[tuple[int, int]]()
        self._together = Barrier(RANKS, self._look, timeout=60)

    def sent_while(self, run: Callable[[], None]) -> Counter[tuple[int, int]]:
        """What every connection sends while all ranks run this."""
        self._together.wait()
        run()
        self._together.wait()
        grown = self._grown
        self._together.wait()
        return grown

    def of_rank(self, group: Group) -> set[tuple[int, int]]:
        """The ends of a rank's connections: those that send while it alone has anything to say."""
        x, found = torch.ones(RANKS * MIB, dtype=torch.uint8), list[set[tuple[int, int]]]()
        for speaker in range(RANKS):
            sent = [MIB * (group.rank == speaker != rank) for rank in range(RANKS)]
            received = [MIB * (rank == speaker != group.rank) for rank in range(RANKS)]
            out = torch.empty(sum(received), dtype=torch.uint8)
            grown = self.sent_while(partial(group.all_to_all, x[: sum(sent)], sent, out, received))
            found.append({ends for ends, size in grown.items() if size >= MIB})
        assert [len(ends) for ends in found] == [RANKS - 1] * RANKS
        return found[group.rank]

    def _look(self) -> None:
        now = sent_by_connection()
        self._before, self._grown = now, now - self._before


def test_each_rank_sends_what_it_counts() -> None:
    wire = Wire()

    def run(mesh: Mesh) -> dict[tuple[str, int], tuple[int, int]]:
        group, found = mesh.tensor, {}
        own = wire.of_rank(group)
        for call, size in product(CALLS, SIZES):
            before = group.traffic.total_bytes
            grown = wire.sent_while(partial(call, group, torch.ones(size // 4)))
            found[call.__name__, size] = sum(grown[ends] for ends in own), group.traffic.total_bytes - before
        return found

    results = run_ranks(Parallelism(tensor=RANKS), run)
    for found in results:
        for call, (really, counted) in found.items():
            envelopes, rest = divmod(really - counted, ENVELOPE)
            assert rest == 0, (call, really, counted)
            assert 0 <= envelopes <= ENVELOPES, (call, really, counted)
