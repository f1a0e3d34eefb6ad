"""Compiling at first use: once, whoever asks, and again when the result is damaged."""

import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from triptych.kernels import native
from triptych.kernels.native import isa as isas
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
    paths = {process.communicate(timeout=120)[0].strip() for process in both}
    assert len(paths) == 1
    assert (tmp_path / "runs").read_text().count("x") == 1
    assert stat.S_IMODE((tmp_path / "kernels").stat().st_mode) == 0o700


def test_a_damaged_shared_object_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    load.cache_clear()
    compiled("norm", PORTABLE).write_bytes(b"cut short")
    try:
        out = torch.zeros(1, 4)
        Norm(PORTABLE).rms_norm(torch.full((1, 4), 2.0), torch.ones(4), 0.0, out)
    finally:
        load.cache_clear()
    assert out.tolist() == [[1.0] * 4]


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


def test_without_a_compiler_the_reason_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match="no C\\+\\+ compiler; on Debian: apt-get install g\\+\\+"):
        compiled("norm", PORTABLE)


def test_without_the_instructions_the_next_best_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isas, "_cpu_features", lambda: frozenset(("avx2", "fma", "f16c", "avx512f")))
    assert [each.name for each in supported()] == ["avx2", "portable"]
    with pytest.raises(NotAvailable, match="this CPU has no avx512bw, avx512dq, avx512vl, avx512bf16, avx512vnni"):
        load("norm", isa("avx512"))


def test_installing_without_a_compiler_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    native.install.cache_clear()
    load.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            reasons = native.install()
            assert native.install() is reasons
    finally:
        native.install.cache_clear()
        load.cache_clear()
    assert "no C++ compiler" in reasons["rms_norm"]
    assert len(caplog.records) == 1
