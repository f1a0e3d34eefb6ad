"""What the machine can do at most: bytes read and products summed per second, measured when asked.

`Machine` measures in a process of its own: its buffers do not count as memory of the engine beside it, and its torch
threads do not meet the engine's.
"""

import ctypes
import mmap
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Literal, Self

Precision = Literal["float32", "bfloat16", "int8"]

READ_BYTES: Final = 128 << 20  # per thread: several times what its last cache holds
GEMM_SIZE: Final = 2048
_REPEATS: Final = 8
_PROBES: Final = 3
_ENOUGH_SECONDS: Final = 0.5


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read together: a compiled probe's, else that of `scan_bandwidth`.

    The median of three probes, each the best of a few runs: shared memory has bursts of twice its usual rate, shorter
    than any workload.
    """
    from triptych.kernels.native.compile import NotAvailable
    from triptych.kernels.native.probe import read_bandwidth as probe

    try:
        return statistics.median(probe(threads) for _ in range(_PROBES))
    except NotAvailable:
        return scan_bandwidth(threads)


def scan_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read together, each from memory of its own; the median of eight.

    Each runs over its memory in search of a byte that is not there: memchr of the C library does little else than
    load, with the widest instructions of the machine, and lets go of Python's lock. It has no prefetch of its own and
    each thread a fixed share, so that it stays up to a quarter below the probe.
    """
    buffers = [_filled(READ_BYTES) for _ in range(threads)]
    try:
        scans = [_scan(buffer) for buffer in buffers]
        return statistics.median(threads * READ_BYTES / _together(scans) for _ in range(_REPEATS))
    finally:
        for buffer in buffers:
            buffer.close()


def gemm_peak(threads: int, precision: Precision) -> float:
    """Floating-point (for int8: integer) operations per second of torch's largest product, best of up to eight.

    A multiplication and an addition count as two. The matrices are [2048, 2048]; the second one is read transposed,
    as a linear reads its weights. torch's thread count is the same afterwards.
    """
    from triptych.engine.threads import torch_threads

    with torch_threads(threads):
        multiply = _product(precision)
        multiply()
        return 2 * GEMM_SIZE**3 / min(_timed(multiply))


class Machine:
    """Measures in a process that lives as long as the context.

    Args:
        threads: Of every measurement.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def read_bandwidth(self) -> float:
        """Bytes per second."""
        return self._process.submit(read_bandwidth, self._threads).result()

    def gemm_peak(self, precision: Precision) -> float:
        """Operations per second."""
        return self._process.submit(gemm_peak, self._threads, precision).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown()


def _filled(size: int) -> mmap.mmap:
    """Memory of its own pages: untouched ones would all be the one page of zeros."""
    buffer = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    piece = b"\x01" * (1 << 20)
    for _ in range(size // len(piece)):
        buffer.write(piece)
    return buffer


def _scan(buffer: mmap.mmap) -> Callable[[], object]:
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes, memchr.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    view = ctypes.c_char.from_buffer(buffer)
    address = ctypes.addressof(view)
    del view  # it would keep the buffer from being closed
    return lambda: memchr(address, 0, len(buffer))


def _together(calls: list[Callable[[], object]]) -> float:
    """Seconds from the first call's beginning to the last one's end; they begin when all threads are there."""
    ready = threading.Barrier(len(calls))
    times: list[tuple[float, float]] = []

    def run(call: Callable[[], object]) -> None:
        ready.wait()
        begun = time.perf_counter()
        call()
        times.append((begun, time.perf_counter()))

    runners = [threading.Thread(target=run, args=(call,)) for call in calls]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return max(ended for _, ended in times) - min(begun for begun, _ in times)


def _product(precision: Precision) -> Callable[[], object]:
    import torch

    size = (GEMM_SIZE, GEMM_SIZE)
    if precision == "int8":
        x, w = (torch.randint(-127, 128, size, dtype=torch.int8) for _ in range(2))
        return lambda: torch._int_mm(x, w.t())
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    a, b, out = (torch.randn(size).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b.t(), out=out)


def _timed(call: Callable[[], object]) -> list[float]:
    """Seconds of each of eight calls, or of fewer where half a second is over."""
    seconds: list[float] = []
    while len(seconds) < _REPEATS and sum(seconds) < _ENOUGH_SECONDS:
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds
