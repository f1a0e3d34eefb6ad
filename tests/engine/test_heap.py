"""What is freed goes back to the system."""

import ctypes
import platform

import psutil
import pytest

from triptych.engine.heap import give_back

SIZE, COUNT = 64 << 10, 512
"""Below what the allocator maps for itself, and 32 MiB in all."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_lies_below_something_that_stays_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    full = psutil.Process().memory_info().rss
    for block in blocks[:-1]:
        libc.free(block)
    give_back()
    assert psutil.Process().memory_info().rss < full - SIZE * COUNT // 2
    libc.free(blocks[-1])


def test_other_libraries_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
