"""Who computes on how many threads: one pool at a time, never two that fight for the cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from triptych.kernels import native
from triptych.kernels.native import team


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def use_threads(count: int | None) -> int:
    """Sets how many threads run decoders of this process; returns the number.

    They belong to the C++ team; torch keeps the calling thread. Without compiled kernels torch gets them all.

    Args:
        count: Threads, the calling one included; None means a thread per core that this process may use.
    """
    threads = count or cores()
    compiled = native.install().isa is not None
    if compiled:
        team.resize(threads)
    torch.set_num_threads(1 if compiled else threads)
    return threads


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Lets torch use so many threads meanwhile: for vision towers, which run while no decoder step does."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
