"""Compiling at first use: once, whoever asks, and again when the result is damaged."""

import errno
import hashlib
import logging
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from triptych.kernels import native
from triptych.kernels.native import isa as isas
from triptych.kernels.native.building import obtainable
from triptych.kernels.native.compile import NotAvailable, compiled, target_of
from triptych.kernels.native.isa import ISAS, isa, supported
from triptych.kernels.native.library import load
from triptych.kernels.native.norm import Norm

PORTABLE = ISAS[-1]


def test_two_processes_that_start_at_once_compile_once(tmp_path: Path) -> None:
    counting = tmp_path / "cxx"
    counting.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo x >> {tmp_path}/runs\nexec g++ "$@"\n')
    counting.chmod(counting.stat().st_mode | stat.S_IXUSR)
    code = (
        "from triptych.kernels.native.compile import compiled\n"
        "from triptych.kernels.native.isa import ISAS\n"
        "print(compiled('norm', ISAS[-1]))"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRIPTYCH_CACHE": str(tmp_path),
        "CXX": str(counting),
        "HOME": str(tmp_path),
    }
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=280)[0].strip() for process in both}
    assert len(paths) == 1
    assert (tmp_path / "runs").read_text().count("x") == 1
    assert stat.S_IMODE((tmp_path / "kernels").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["empty", "half", "nine tenths", "a flipped bit", "no checksum"])
def test_a_damaged_shared_object_is_compiled_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    target = compiled("norm", PORTABLE)
    good = target.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    damaged = {"empty": b"", "half": good[: len(good) // 2], "nine tenths": good[: len(good) * 9 // 10]}
    target.write_bytes(damaged.get(damage, bytes(flipped)))
    if damage == "no checksum":  # such as an interrupted compilation leaves
        target.write_bytes(good)
        target.with_suffix(".sha256").unlink()
    load.cache_clear()
    try:
        out = torch.zeros(1, 4)
        Norm(PORTABLE).rms_norm(torch.full((1, 4), 2.0), torch.ones(4), 0.0, out)
    finally:
        load.cache_clear()
    assert out.tolist() == [[1.0] * 4]
    assert hashlib.sha256(target.read_bytes()).hexdigest() == target.with_suffix(".sha256").read_text()


def test_what_was_built_ahead_needs_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    made = compiled("norm", PORTABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiled("norm", PORTABLE) == made
    with pytest.raises(NotAvailable, match="no C"):
        compiled("argmax", PORTABLE)


def test_the_name_changes_with_the_compiler_and_the_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    first = {target_of("norm", each) for each in ISAS}
    other = tmp_path / "g++"
    other.write_text("#!/bin/sh\necho another compiler\n")
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert len(first | {target_of("norm", each) for each in ISAS}) == 2 * len(ISAS)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    failing = tmp_path / "g++"
    failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such thing >&2\nexit 1\n')
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(NotAvailable, match=r"failed on norm\.cpp: no such thing"):
        compiled("norm", PORTABLE)
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".lock"]


def test_a_full_disk_means_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(NotAvailable, match="No space left on device"):
        compiled("norm", PORTABLE)


def test_without_a_compiler_the_reason_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NotAvailable, match="no C\\+\\+ compiler; on Debian: apt-get install g\\+\\+"):
        compiled("norm", PORTABLE)


def test_whether_kernels_can_be_had_is_told_without_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert obtainable()
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    assert obtainable()
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not obtainable()


def test_without_the_instructions_the_next_best_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isas, "_cpu_features", lambda: frozenset(("avx2", "fma", "f16c", "avx512f")))
    assert [each.name for each in supported()] == ["avx2", "portable"]
    with pytest.raises(NotAvailable, match="this CPU has no avx512bw, avx512dq, avx512vl, avx512bf16, avx512vnni"):
        load("norm", isa("avx512"))


@pytest.fixture
def uninstalled() -> Iterator[None]:
    """Forgets what is installed and loaded; puts it back afterwards."""
    native.install.cache_clear()
    load.cache_clear()
    yield
    native.install.cache_clear()
    load.cache_clear()
    native.install()


@pytest.mark.usefixtures("uninstalled")
def test_installing_without_a_compiler_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    with monkeypatch.context() as without, caplog.at_level(logging.WARNING):
        without.setenv("PATH", str(tmp_path))
        without.delenv("CXX", raising=False)
        installed = native.install()
        assert native.install() is installed
    monkeypatch.undo()
    assert installed.isa is None
    assert [isa for isa, _ in installed.refused] == list(supported())
    assert len(caplog.records) == 1
    assert "no C++ compiler" in caplog.records[0].message


@pytest.mark.skipif(len(supported()) < 2, reason="needs a CPU with more than the portable set")
@pytest.mark.usefixtures("uninstalled")
def test_a_compiler_that_does_not_know_the_best_set_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = supported()[0]
    old = tmp_path / "old g++"
    last = best.flags[-1]
    refusal = f'case "$*" in *{last}*) echo unrecognized {last} >&2; exit 1;; esac'
    old.write_text(f'#!/bin/sh\n{refusal}\nexec g++ "$@" -O0\n')  # what is made here is not called
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    installed = native.install()
    monkeypatch.undo()
    assert installed.isa == supported()[1]
    assert installed.refused[0][0] == best
    assert "unrecognized" in installed.refused[0][1]
