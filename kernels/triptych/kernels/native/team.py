"""The thread team and the programs that it runs (src/team.cpp).

A native op calls `submit`. Outside of `capture` that runs the kernel at once, on all threads of the team; inside, it
records the call, and `Program.launch` later replays all recorded calls without coming back to Python between them.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from triptych.kernels.dispatch import compiled_only
from triptych.kernels.native.isa import ISAS
from triptych.kernels.native.library import Kernel, load


class _Call(ctypes.Structure):
    _fields_ = (("run", ctypes.c_void_p), ("pieces", ctypes.c_void_p), ("args", ctypes.c_void_p))


class Program:
    """Recorded kernel calls. Their tensors are kept, and are read and written in place at every run."""

    def __init__(self) -> None:
        self._kept: list[tuple[ctypes.Structure, tuple[Tensor | None, ...]]] = []
        self._calls: list[_Call] = []
        self._handle: int | None = None
        self._launched = 0
        self._workspace = torch.empty(0, dtype=torch.uint8)

    def __len__(self) -> int:
        """Number of calls."""
        return len(self._calls)

    def append(
        self, kernel: Kernel[ctypes.Structure], args: ctypes.Structure, tensors: tuple[Tensor | None, ...]
    ) -> None:
        """Adds a call."""
        self._kept.append((args, tensors))
        self._calls.append(_Call(kernel.run, kernel.pieces, ctypes.addressof(args)))

    def workspace(self, size: int) -> Tensor:
        """See `workspace`."""
        if self._workspace.numel() < size:
            self._workspace = torch.empty(size, dtype=torch.uint8)
        return self._workspace

    def launch(self) -> None:
        """Starts a run and returns; the team computes meanwhile. `join` must follow."""
        if self._launched:  # an interrupt came between the two
            self.join()
        if self._handle is None:
            self._handle = _library().triptych_program_create((_Call * len(self))(*self._calls), len(self))
        self._launched = _library().triptych_program_launch(self._handle)

    def join(self) -> None:
        """Takes part in the run until it is done."""
        launched, self._launched = self._launched, 0
        _library().triptych_program_join(self._handle, launched)

    def run(self) -> None:
        """Launches and joins."""
        self.launch()
        self.join()

    def __del__(self) -> None:
        """Forgets the calls on the C++ side."""
        if self._launched:
            self.join()
        if self._handle is not None:
            _library().triptych_program_destroy(self._handle)


class _Recorder(threading.local):
    program: Program | None = None


_recorder = _Recorder()


@contextmanager
def capture() -> Iterator[Program]:
    """Native ops that this thread calls inside are recorded, not run.

    Raises:
        NoBackend: an op without a kernel for its arguments was called.
    """
    program = Program()
    before, _recorder.program = _recorder.program, program
    try:
        with compiled_only():
            yield program
    finally:
        _recorder.program = before


def submit(kernel: Kernel[ctypes.Structure], args: ctypes.Structure, *tensors: Tensor | None) -> None:
    """Runs a kernel, or records the call.

    Args:
        kernel: What to call.
        args: Its arguments.
        tensors: Those whose memory the arguments point to.
    """
    if _recorder.program is not None:
        _recorder.program.append(kernel, args, tensors)
    else:
        _library().triptych_run_once(ctypes.byref(_Call(kernel.run, kernel.pieces, ctypes.addressof(args))))


def recording() -> bool:
    """Whether `submit` records calls of this thread."""
    return _recorder.program is not None


def workspace(size: int) -> Tensor:
    """Memory for what one call leaves to the next: the calls of a program share it, as they run one after the other.

    Args:
        size: How many bytes are needed.

    Returns:
        At least so many bytes, uint8, to be given to every `submit` whose arguments point into it.
    """
    if _recorder.program is not None:
        return _recorder.program.workspace(size)
    return torch.empty(size, dtype=torch.uint8)


def resize(threads: int) -> None:
    """Sets how many threads compute, the calling one included; one team serves the whole process.

    Raises:
        NotAvailable: the team cannot be compiled here.
    """
    _library().triptych_team_resize(threads)


def threads() -> int:
    """How many threads compute."""
    return int(_library().triptych_team_threads())


@cache
def _library() -> ctypes.CDLL:
    library = load("team", ISAS[-1])
    signatures = {
        "triptych_program_create": ([ctypes.c_void_p, ctypes.c_int64], ctypes.c_void_p),
        "triptych_program_destroy": ([ctypes.c_void_p], None),
        "triptych_program_launch": ([ctypes.c_void_p], ctypes.c_int64),
        "triptych_program_join": ([ctypes.c_void_p, ctypes.c_int64], None),
        "triptych_run_once": ([ctypes.c_void_p], None),
        "triptych_team_forked": ([], None),
        "triptych_team_resize": ([ctypes.c_int64], None),
        "triptych_team_threads": ([], ctypes.c_int64),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    os.register_at_fork(after_in_child=library.triptych_team_forked)
    return library
