"""Compiles a C++ source once per machine: the result is named by a hash of source, flags and compiler."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")


class NotAvailable(Exception):
    """This machine cannot compile or run the kernel; the message says why and what would help."""


def compiled(source: Path, cpu_features: tuple[str, ...]) -> Path:
    """The shared object of a source, compiled if it is not there yet.

    Processes that start together compile once: the others wait for the lock and find the file.

    Args:
        source: A C++ file that needs no other headers than the compiler's.
        cpu_features: What it uses, as gcc's -m options and /proc/cpuinfo name it without punctuation: avx512bf16.

    Raises:
        NotAvailable: the CPU lacks a feature, there is no compiler, or it fails.
    """
    missing = set(cpu_features) - _cpu_features()
    if missing:
        raise NotAvailable(f"this CPU has no {', '.join(sorted(missing))}")
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise NotAvailable("there is no C++ compiler; on Debian: apt-get install g++")
    flags = (*FLAGS, *(f"-m{feature}" for feature in cpu_features))
    target = _cache_directory() / f"{source.stem}-{_digest(source, compiler, flags)}.so"
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            _compile(compiler, flags, source, target)
    return target


def discard(target: Path) -> None:
    """Forgets a shared object that turned out to be damaged."""
    target.unlink(missing_ok=True)


def _compile(compiler: str, flags: tuple[str, ...], source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "made.so"
        command = [compiler, *flags, str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAvailable(f"{compiler} failed on {source.name}: {done.stderr.strip()[:500]}")
        made.replace(target)


def _digest(source: Path, compiler: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    text = "\n".join((source.read_text(), " ".join(flags), version, platform.machine()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cache_directory() -> Path:
    """A folder that only this user can write, because what lies there is executed."""
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TRIPTYCH_CACHE") or Path(shared, "triptych"), "kernels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise NotAvailable(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _cpu_features() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return {flag.replace("_", "") for flag in flags.split()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
