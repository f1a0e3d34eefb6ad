"""Free memory and the disk's bandwidth, as they are measured."""

import errno
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psutil
import pytest

from triptych.core.errors import ResourceExhausted, Unavailable
from triptych.experts.fit import disk_bandwidth, free_memory, scratch_file

MIB = 1 << 20


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the files of a control group."""
    available = type("Memory", (), {"available": 1000 * MIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)

    def write(path: str, **files: str) -> None:
        folder = tmp_path / "mount" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    return write


def free(tmp_path: Path, groups: str) -> int:
    (tmp_path / "cgroup").write_text(groups)
    return free_memory(tmp_path / "cgroup", tmp_path / "mount") // MIB


def test_without_control_groups_it_is_the_machines(group: Callable[..., None], tmp_path: Path) -> None:
    assert free_memory(tmp_path / "none", tmp_path / "mount") == 1000 * MIB
    assert free(tmp_path, "0::/\n") == 1000
    group("a", memory__max="max\n", memory__current="5\n")
    assert free(tmp_path, "0::/a\n") == 1000


def test_the_tightest_group_above_counts_and_pages_of_files_are_free(
    group: Callable[..., None], tmp_path: Path
) -> None:
    stat = f"anon 1\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\n"
    group("a", memory__max=f"{300 * MIB}\n", memory__current=f"{100 * MIB}\n", memory__stat=stat)
    group("a/b", memory__max=f"{500 * MIB}\n", memory__current=f"{90 * MIB}\n")
    assert free(tmp_path, "0::/a/b\n") == 230
    group("a/b", memory__max=f"{50 * MIB}\n")
    assert free(tmp_path, "0::/a/b\n") == 0


def test_groups_of_the_first_version_count_too(group: Callable[..., None], tmp_path: Path) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}\n"
    group(
        "memory/x",
        memory__limit_in_bytes=f"{40 * MIB}\n",
        memory__usage_in_bytes=f"{30 * MIB}\n",
        memory__stat=stat,
    )
    assert free(tmp_path, "9:name=systemd:/\n4:cpu,memory:/x\n0::/\n") == 12


def test_this_machine_has_some_free_memory() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize("readers", [1, 3])
def test_a_file_is_read_at_least_once_by_everybody(tmp_path: Path, readers: int) -> None:
    ticks = count()
    with scratch_file(tmp_path, MIB) as file:
        assert disk_bandwidth(file, 5 * 4096, readers, seconds=0, clock=lambda: next(ticks)) > 0
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_direct_reads_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, mode)

    with scratch_file(tmp_path, MIB) as file:
        monkeypatch.setattr("os.open", refuse)
        assert disk_bandwidth(file, 4096, 2, seconds=0) > 0


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read: No such file"):
        disk_bandwidth(tmp_path / "none", 4096, 1)
    (tmp_path / "small").write_bytes(b"1")
    with pytest.raises(Unavailable, match="must have at least 8192 bytes"):
        disk_bandwidth(tmp_path / "small", 8192, 1)


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    with scratch_file(tmp_path, MIB) as file:

        def shrink() -> float:
            os.truncate(file, 0)
            return 0.0

        with pytest.raises(Unavailable, match="it ends where it did not before"):
            disk_bandwidth(file, 4096, 1, clock=shrink)


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with (
        pytest.raises(ResourceExhausted, match=f"{tmp_path} has no room for {MIB} bytes"),
        scratch_file(tmp_path, MIB),
    ):
        raise AssertionError("it was written")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Unavailable, match=f"{folder} cannot be written: "), scratch_file(folder):
            raise AssertionError("it was written")
