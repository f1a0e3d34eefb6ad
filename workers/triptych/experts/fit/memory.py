"""Memory that is free for this process: of the machine, and of the control groups that it is in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

_GROUPS: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def free_memory(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Bytes; pages of files that can be dropped count as free.

    Args:
        groups: Which control groups the process is in (proc(5)).
        mount: Where they are mounted.
    """
    return max(0, min((psutil.virtual_memory().available, *_left(groups, mount))))


def _left(groups: Path, mount: Path) -> Iterator[int]:
    """What each group that has a limit leaves; version 2 and version 1 of control groups."""
    for line in _text(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        match controllers.split(","):
            case [""]:
                root, limit, usage = mount, "memory.max", "memory.current"
            case names if "memory" in names:
                root, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            case _:
                continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
            if most.isdecimal() and used.isdecimal():
                yield int(most) - int(used) + _droppable(folder)
            if folder == root:
                break


def _droppable(folder: Path) -> int:
    """Pages of files; version 1 counts those of the groups below with a prefix."""
    stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines())
    prefix = "total_" if "total_inactive_file" in stat else ""
    return sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
