"""Compiles C++ sources once per machine: a result is named by a hash of sources, flags and compiler."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from triptych.kernels.native.isa import Isa

SOURCES = Path(__file__).with_name("src")
FLAGS = ("-O3", "-std=c++20", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC", "-pthread")


class NotAvailable(Exception):
    """This machine cannot compile or run the kernels; the message says why and what would help."""


def compiled(name: str, isa: Isa) -> Path:
    """The shared object of `src/name.cpp`, compiled if it is not there yet, or is not what was compiled.

    Processes that start together compile once: the others wait for the lock and find the file. What was compiled
    ahead of time serves a machine without a compiler.

    Raises:
        NotAvailable: there is no compiler, or it fails, or the cache cannot be written.
    """
    target = target_of(name, isa)
    try:
        if not _intact(target):
            with _locked(target.with_suffix(".lock")):
                if not _intact(target):
                    _compile(SOURCES / f"{name}.cpp", isa, target)
    except OSError as error:
        raise NotAvailable(f"{target} cannot be written: {error.strerror}") from error
    return target


def target_of(name: str, isa: Isa) -> Path:
    """Where the shared object is, or will be.

    Its name says source, instruction set, a digest of all that goes into it, and the compiler's. Without a compiler
    it is that of any one who compiled the same.

    Raises:
        NotAvailable: there is no compiler and nothing compiled, or the cache cannot be written.
    """
    folder, stem = cache_directory(), f"{name}-{isa.name}-{_digest(SOURCES / f'{name}.cpp', isa)}"
    try:
        return folder / f"{stem}-{_short(_version(compiler()))}.so"
    except NotAvailable:
        if found := sorted(folder.glob(f"{stem}-*.so")):
            return found[0]
        raise


def sources() -> tuple[str, ...]:
    """Names of everything that can be compiled."""
    return tuple(sorted(path.stem for path in SOURCES.glob("*.cpp")))


def compiler() -> str:
    """The C++ compiler: $CXX, g++ or c++.

    Raises:
        NotAvailable: there is none.
    """
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if found is None:
        raise NotAvailable("there is no C++ compiler; on Debian: apt-get install g++")
    return found


def cache_directory() -> Path:
    """A folder that only this user can write, because what lies there is executed.

    Raises:
        NotAvailable: it cannot be made.
    """
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TRIPTYCH_CACHE") or Path(shared, "triptych"), "kernels")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:  # not otherwise: an image may be read-only
            folder.chmod(0o700)
    except OSError as error:
        raise NotAvailable(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _compile(source: Path, isa: Isa, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "made.so"
        command = [compiler(), *FLAGS, *isa.flags, str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAvailable(f"{command[0]} failed on {source.name}: {done.stderr.strip()[:500]}")
        checksum = Path(scratch) / "checksum"
        checksum.write_text(_checksum(made))
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(target)
        checksum.replace(target.with_suffix(".sha256"))


def _intact(target: Path) -> bool:
    """Whether a shared object is there, and is what the compiler wrote: loading one that was cut short can crash."""
    try:
        return _checksum(target) == target.with_suffix(".sha256").read_text()
    except OSError:
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _digest(source: Path, isa: Isa) -> str:
    return _short("\n".join((*_texts(source).values(), *FLAGS, *isa.flags, platform.machine())))


def _texts(source: Path) -> dict[Path, str]:
    """A source and all that it includes of ours."""
    texts: dict[Path, str] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path not in texts:
            texts[path] = path.read_text()
            waiting += [path.parent / name for name in re.findall(r'^#include "(.+)"', texts[path], re.MULTILINE)]
    return texts


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _version(command: str) -> str:
    return subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
