"""`triptych kernels`: what is built, and what computes each op."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.cli.main import app
from triptych.core.errors import FailedPrecondition
from triptych.kernels.native.building import PORTABLE
from triptych.kernels.native.compile import sources
from triptych.kernels.native.isa import supported


def test_list_names_every_op_with_its_backend_and_the_reason() -> None:
    result = CliRunner().invoke(app, ["kernels", "list", "--json"])
    assert result.exit_code == 0
    statuses = {status["op"]: status for status in json.loads(result.stdout)}
    assert statuses["linear"]["backend"] == "native"
    assert statuses["linear"]["reason"].startswith(f"compiled for {supported()[0].name}")
    assert statuses["rms_norm"]["backend"] == "native"


def test_list_as_a_table_has_a_line_per_op() -> None:
    result = CliRunner().invoke(app, ["kernels", "list"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert {"add_rms_norm", "paged_attention", "embedding"} <= set(result.stdout.split())


def test_build_makes_every_source_and_then_has_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    compiler = tmp_path / "g++"  # a compiler as quick as a copy: what it makes is never loaded
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nfor last; do :; done\necho made > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    first = CliRunner().invoke(app, ["kernels", "build", "--isa", "all"])
    again = CliRunner().invoke(app, ["kernels", "build", "--isa", "all"])
    count = len(PORTABLE) + 3 * (len(sources()) - len(PORTABLE))
    assert f"{count} built, {count} of them now" in first.stdout
    assert f"{count} built, 0 of them now" in again.stdout
    assert len(list((tmp_path / "kernels").glob("*.so"))) == count


def test_build_without_a_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["kernels", "build"])
    assert isinstance(result.exception, FailedPrecondition)
    assert "apt-get install g++" in str(result.exception)


def test_list_without_a_compiler_shows_torch_and_why(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "TRIPTYCH_CACHE": str(tmp_path), "HOME": str(tmp_path)}
    code = "from triptych.cli.main import main; main(['kernels', 'list', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    statuses = json.loads(done.stdout)
    assert {status["backend"] for status in statuses} == {"torch"}
    assert all("no C++ compiler" in status["reason"] for status in statuses)
    assert done.stderr.count("torch computes instead of compiled kernels") == 1
