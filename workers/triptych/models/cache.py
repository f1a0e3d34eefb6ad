"""The cache directory: things made once, under a lock, complete or absent.

Everything is built beside its final name and renamed, so that a reader never meets half of it, and a process that
dies while building leaves a `.partial` that the next builder removes.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from triptych.core.errors import FailedPrecondition, ResourceExhausted

MANIFEST = "complete.json"


def cache_directory() -> Path:
    """`$TRIPTYCH_CACHE`, else `$XDG_CACHE_HOME/triptych`, else `~/.cache/triptych`."""
    if chosen := os.environ.get("TRIPTYCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "triptych"


def file_key(path: Path) -> str:
    """Names the present content of a file without reading it: changes with its place, size or time of writing."""
    status = path.stat()
    identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()


def files_key(paths: Iterable[Path]) -> str:
    """`file_key` of several files together, some of which may be absent."""
    keys = (file_key(path) if path.is_file() else str(path.absolute()) for path in paths)
    return hashlib.blake2b("\0".join(keys).encode(), digest_size=12).hexdigest()


def build_file(target: Path, build: Callable[[Path], None], *, intact: Callable[[Path], bool]) -> Path:
    """Returns `target`, writing it with `build` unless it is there and `intact`.

    Raises:
        ResourceExhausted: the disk is full.
        FailedPrecondition: the cache directory cannot be written.
    """
    return _build_once(target, build, intact)


def build_folder(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns the folder `target`, filled by `build` unless every file is there in the size it was written.

    Raises:
        ResourceExhausted: the disk is full.
        FailedPrecondition: the cache directory cannot be written.
    """

    def fill(folder: Path) -> None:
        folder.mkdir()
        build(folder)
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in _files(folder)}
        (folder / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")

    return _build_once(target, fill, _folder_intact)


@contextmanager
def holding(target: Path) -> Iterator[None]:
    """Keeps others from building a file, or waits until they have.

    Raises:
        ResourceExhausted: the disk is full.
        FailedPrecondition: the cache directory cannot be written.
    """
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            yield


def require_space(folder: Path, needed: int, purpose: str, *, variable: str = "TRIPTYCH_CACHE") -> None:
    """Refuses work that the disk has no room for; `variable` is how its user moves the folder.

    Raises:
        ResourceExhausted: names the bytes needed and free.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceExhausted(
            f"{purpose} needs {_megabytes(needed)} in {folder}, {_megabytes(free)} are free: "
            f"make room, or set {variable} to a folder on another disk"
        )


def _build_once(target: Path, build: Callable[[Path], None], intact: Callable[[Path], bool]) -> Path:
    if intact(target):
        return target
    with holding(target):
        if intact(target):
            return target
        partial = target.with_name(target.name + ".partial")
        _remove(partial)
        try:
            build(partial)
            _sync(partial)
            _remove(target)
            partial.rename(target)
        except BaseException:
            _remove(partial)
            raise
    return target


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = _megabytes(shutil.disk_usage(target.parent).free)
            raise ResourceExhausted(
                f"writing {target} failed ({error.strerror}, {free} free): "
                "make room, or set TRIPTYCH_CACHE to a folder on another disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise FailedPrecondition(
                f"the cache cannot be written at {error.filename or target} ({error.strerror}): "
                "set TRIPTYCH_CACHE to a folder you own"
            ) from error
        raise


def _folder_intact(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sync(path: Path) -> None:
    """Puts the bytes on the disk before the name: after a power cut a renamed file must not hold zeros."""
    for entry in _files(path) if path.is_dir() else (path,):
        with entry.open("rb") as file:
            os.fsync(file.fileno())


def _files(folder: Path) -> list[Path]:
    """All files in it and its folders."""
    return sorted(entry for entry in folder.rglob("*") if entry.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
