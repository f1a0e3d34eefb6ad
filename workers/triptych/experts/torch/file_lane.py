"""From the packed file into slots of host memory: what a CPU computes with."""

import time
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from triptych.experts.cache import Load
from triptych.experts.pool import Pool
from triptych.experts.store.direct import pages
from triptych.experts.torch.pack_file import PackFile
from triptych.experts.torch.reads import Arrived, Read, ReadQueue
from triptych.kernels import Experts


class FileLane:
    """See `Lane`. Demand is answered when everything is there.

    Args:
        file: With the experts.
        pool: Of slots, for which it takes the memory.
        readers: Threads.
    """

    def __init__(self, file: PackFile, pool: Pool, readers: int) -> None:
        self.memory = pages(pool.nbytes).view(pool.slots, pool.slot_bytes)
        self.stall_ns = 0
        self._file = file
        self._reads = ReadQueue(self._read, readers)

    def experts(self, layer: int, tables: Experts) -> Experts:
        """See `Lane.experts`."""
        return tables

    def begin(self, load: Load, number: int, *, rounded: bool) -> bool:
        """See `Lane.begin`."""
        self._reads.put(Read(load.slot, load.layer, number, rounded), load.cause)
        return True

    def promote(self, slot: int) -> None:
        """See `Lane.promote`."""
        self._reads.promote(slot)

    def drop(self, slot: int) -> bool:
        """See `Lane.drop`."""
        return self._reads.drop(slot)

    def demand(self, layer: int, ids: Tensor, slots: Mapping[int, int], kept: Collection[int]) -> tuple[int, ...]:
        """See `Lane.demand`."""
        started = time.perf_counter_ns()
        self._reads.wait(slots.values())
        self.stall_ns += time.perf_counter_ns() - started
        return ()

    def arrived(self) -> list[Arrived]:
        """See `Lane.arrived`."""
        return self._reads.arrived()

    def wait(self, slots: Iterable[int]) -> None:
        """See `Lane.wait`."""
        self._reads.wait(slots)

    def close(self) -> None:
        """See `Lane.close`."""
        self._reads.close()

    def _read(self, read: Read) -> None:
        bring = self._file.read_expanded if read.rounded else self._file.read
        bring(read.layer, read.number, self.memory[read.slot])
