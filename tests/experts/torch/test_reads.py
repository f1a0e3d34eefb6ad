import threading

import pytest

from triptych.experts.cache import Cause
from triptych.experts.torch.reads import Read, ReadQueue


class Disk:
    """Its reads are over when they may be; those of `free` at once."""

    def __init__(self, free: int) -> None:
        self.go_on = threading.Event()
        self.read: list[int] = []
        self._free = free

    def __call__(self, read: Read) -> None:
        if read.slot != self._free:
            assert self.go_on.wait(60)
        self.read.append(read.slot)


@pytest.mark.parametrize("ahead", ["prefetch", "warm"])
def test_a_reader_is_left_for_what_a_step_waits_for(ahead: Cause) -> None:
    disk = Disk(free=9)
    queue = ReadQueue(disk, readers=3)
    for slot in range(5):
        queue.put(Read(slot, 0, slot), ahead)
    queue.put(Read(9, 0, 9), "demand")
    queue.wait([9])
    assert disk.read == [9]
    disk.go_on.set()
    queue.wait(range(5))
    assert sorted(disk.read) == [0, 1, 2, 3, 4, 9]
    queue.close()


def test_the_only_reader_reads_in_advance_too() -> None:
    disk = Disk(free=0)
    queue = ReadQueue(disk, readers=1)
    queue.put(Read(0, 0, 0), "prefetch")
    queue.wait([0])
    assert disk.read == [0]
    queue.close()
