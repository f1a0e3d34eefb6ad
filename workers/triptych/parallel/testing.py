"""Ranks as threads of one process: joined by gloo, or faster, where collectives are not the subject, by copies."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import HashStore

from triptych.core.trace import Recorder
from triptych.parallel.backends import Backends
from triptych.parallel.group import Mesh
from triptych.parallel.lost import RankLost
from triptych.parallel.mesh import Parallelism
from triptych.parallel.rendezvous import CPU, mesh_over
from triptych.parallel.thread_group import thread_meshes

_Result = TypeVar("_Result")


def run_ranks(
    parallelism: Parallelism, run: Callable[[Mesh], _Result], *, patience: float = 60.0
) -> tuple[_Result, ...]:
    """Runs a function once per rank, all at once, over gloo; gives the results by rank.

    Args:
        parallelism: How many ranks, in what grid.
        run: Called with the rank's own groups.
        patience: Seconds that a collective waits for the others.

    Raises:
        Exception: what the first rank raised that did not only lose another one; the others' groups are given up.
    """
    store = HashStore()
    backends = Backends(CPU, "127.0.0.1", timedelta(seconds=patience))
    return _run(parallelism.size, lambda rank: mesh_over(store, parallelism, rank, backends, Recorder()), run)


def run_threads(
    parallelism: Parallelism, run: Callable[[Mesh], _Result], *, patience: float = 60.0
) -> tuple[_Result, ...]:
    """As `run_ranks`, but collectives are copies between the threads: microseconds each, and the same bytes counted.

    Raises:
        Exception: as `run_ranks`.
    """
    return _run(parallelism.size, thread_meshes(parallelism, patience).__getitem__, run)


def _run(size: int, open_mesh: Callable[[int], Mesh], run: Callable[[Mesh], _Result]) -> tuple[_Result, ...]:
    opened: list[Mesh] = []
    failed = threading.Event()

    def one(rank: int) -> _Result:
        mesh = open_mesh(rank)
        opened.append(mesh)
        try:
            if failed.is_set():  # before this one could be given up
                mesh.abort()
            return run(mesh)
        except BaseException:
            failed.set()
            for other in list(opened):
                other.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, RankLost)):
        raise error
    return tuple(future.result() for future in futures)
