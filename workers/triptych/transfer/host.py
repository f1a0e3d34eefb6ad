"""Which processes can map each other's memory."""

import functools
import os
import platform
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@functools.cache
def host_id() -> str:
    """A text that is equal in two processes exactly when one may open the other's `/proc/<pid>/fd/<fd>`.

    Same boot of the same kernel (boot id), same process numbers (inode of the pid namespace), same user. Where there
    is no memfd nobody can map anybody, and the id is unique to the process.
    """
    if not hasattr(os, "memfd_create") or not _BOOT_ID.exists():
        return f"{platform.node()}:{os.getpid()}"
    boot_id = _BOOT_ID.read_text().strip()
    return f"{boot_id}:{_PID_NAMESPACE.stat().st_ino}:{os.getuid()}"
