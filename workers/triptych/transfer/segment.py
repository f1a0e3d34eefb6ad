"""Memory that other processes of the host may read: an anonymous file (memfd) that dies with its owner."""

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from triptych.core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from triptych.transfer.host import host_id

Bytes = npt.NDArray[np.uint8]

# One page in front of the data, so that the data stays page-aligned.
HEADER_BYTES = 4096
_HEADER = struct.Struct("<8s16sQ")  # magic, token, size of the data
_MAGIC = b"TRIPTYCH"
_TOKEN_BYTES = 16
# Linux 5.1: later mappings cannot be writable; not yet named by Python 3.11.
_F_SEAL_FUTURE_WRITE = 0x10


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """Where a segment can be attached, and the token that proves it is still the same one.

    Attributes:
        host_id: `host_id()` of the owner.
        pid: Process id of the owner.
        descriptor: File descriptor in the owner.
        token: 32 hex digits drawn by the owner; a recycled pid or descriptor cannot have it.
        size: Bytes of data.
    """

    host_id: str
    pid: int
    descriptor: int
    token: str
    size: int


class SharedSegment:
    """A block of memory owned by one process and readable by the others of its host.

    The file has no name, so that nothing is left behind however the owner ends. It is sealed: its size is fixed (a
    reader cannot be hit by SIGBUS) and nobody but the owner can map it for writing.
    """

    def __init__(self, mapping: mmap.mmap, ref: SegmentRef, descriptor: int | None) -> None:
        self.ref = ref
        self._mapping = mapping
        self._descriptor = descriptor
        self._array: Bytes | None = np.frombuffer(mapping, dtype=np.uint8, offset=HEADER_BYTES)

    @staticmethod
    def available() -> bool:
        """Whether this system can share memory this way."""
        return hasattr(os, "memfd_create")

    @classmethod
    def create(cls, size: int, name: str = "triptych") -> Self:
        """Allocates `size` zeroed bytes.

        Raises:
            InvalidArgument: `size` is not positive.
            FailedPrecondition: This system has no memfd.
            ResourceExhausted: No memory or no file descriptor is left.
        """
        if size <= 0:
            raise InvalidArgument(f"a shared segment holds at least 1 byte, got {size}", field="size")
        if not cls.available():
            raise FailedPrecondition("this system has no memfd; use the tcp transfer backend")
        total = HEADER_BYTES + size
        try:
            descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise ResourceExhausted(f"cannot create a shared segment of {size} bytes: {error}") from error
        try:
            os.ftruncate(descriptor, total)
            mapping = mmap.mmap(descriptor, total)
            token = secrets.token_bytes(_TOKEN_BYTES)
            _HEADER.pack_into(mapping, 0, _MAGIC, token, size)
            _seal(descriptor)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise ResourceExhausted(f"cannot create a shared segment of {size} bytes: {error}") from error
        return cls(mapping, SegmentRef(host_id(), os.getpid(), descriptor, token.hex(), size), descriptor)

    @classmethod
    def attach(cls, ref: SegmentRef) -> Self:
        """Maps another process's segment, read-only.

        Raises:
            FailedPrecondition: The owner is on another host, is gone, or has closed the segment.
        """
        if ref.host_id != host_id():
            raise FailedPrecondition("the shared segment is on another host; use the tcp transfer backend")
        path = f"/proc/{ref.pid}/fd/{ref.descriptor}"
        try:
            mapping = _map(path, HEADER_BYTES + ref.size)
        except (OSError, ValueError) as error:
            raise FailedPrecondition(f"cannot attach the shared segment {path}: {error}") from error
        if _HEADER.unpack_from(mapping, 0) != (_MAGIC, bytes.fromhex(ref.token), ref.size):
            mapping.close()
            raise FailedPrecondition(f"the shared segment {path} is not the one that was announced")
        return cls(mapping, ref, None)

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self.ref.size

    @property
    def array(self) -> Bytes:
        """The data, uint8 [size]; writable in the owner only."""
        if self._array is None:
            raise FailedPrecondition("the shared segment is closed")
        return self._array

    @property
    def buffer(self) -> memoryview:
        """The data as a memoryview of bytes, for `torch.frombuffer`."""
        return self.array.data

    def close(self) -> None:
        """Ends sharing; idempotent. Views that are still alive keep the memory until they die."""
        self._array = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        with contextlib.suppress(BufferError):
            self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _seal(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)


def _map(path: str, total: int) -> mmap.mmap:
    # The descriptor may have been recycled for a pipe or a device, whose open could block or act.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a memory file")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise OSError("its size is not sealed")
        if os.fstat(descriptor).st_size != total:
            raise OSError(f"it does not have {total} bytes")
        return mmap.mmap(descriptor, total, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
